"""Validates Kubernetes objects strictly against the schemas of one release, for tests/chart.

Reads one JSON object a line, {"place", "kubernetes", "object"}. Writes one line for each that is not valid, and at the
end how many it looked at.
"""

import functools
import json
import sys

import kubernetes_validate
from kubernetes_validate import utils

# Each call reads the definitions of a whole release: once is enough.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)

count = 0
for line in sys.stdin:
    asked = json.loads(line)
    count += 1
    try:
        used = kubernetes_validate.validate(asked["object"], asked["kubernetes"], strict=True)
        if used != asked["kubernetes"]:
            print(f"{asked['place']}: there are no schemas of {asked['kubernetes']}, only of {used}")
    except kubernetes_validate.ValidationError as error:
        path = "".join(f"[{part!r}]" for part in error.path)
        print(f"{asked['place']}: {path}: {error.message}")
    except kubernetes_validate.SchemaNotFoundError as error:
        print(f"{asked['place']}: {error.message}")
print(f"{count} looked at")
