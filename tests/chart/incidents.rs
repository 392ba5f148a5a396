//! What must hold of every rendered permutation: each line is an outage that somebody else had.

use serde_json::{Value, json};

use super::helm::{RENDERED, Rendered, cases, list, name, objects, tool};

/// Those that deploy the webhook, and leave certificates to the cluster.
fn in_cluster() -> impl Iterator<Item = &'static Rendered> {
    RENDERED.iter().filter(|rendered| rendered.case != "url")
}

fn webhook(rendered: &Rendered) -> &Value {
    let webhooks = list(&rendered.one("MutatingWebhookConfiguration")["webhooks"]);
    assert_eq!(webhooks.len(), 1, "{}", rendered.place());
    &webhooks[0]
}

fn deployments() -> impl Iterator<Item = (String, &'static Value)> {
    RENDERED.iter().flat_map(|rendered| {
        let place = |object| format!("{}: {}", rendered.place(), name(object));
        rendered
            .of_kind("Deployment")
            .map(move |object| (place(object), object))
    })
}

#[test]
fn incidents_01_02_33_the_exclusions_survive_every_override() {
    for rendered in RENDERED.iter() {
        let excluded = json!({
            "key": "kubernetes.io/metadata.name",
            "operator": "NotIn",
            "values": ["kube-node-lease", "kube-public", "kube-system", rendered.namespace()],
        });
        // Expressions are ANDed, so one that is there cannot be undone by another.
        let expressions = list(&webhook(rendered)["namespaceSelector"]["matchExpressions"]);
        assert!(expressions.contains(&excluded), "{}", rendered.place());
    }
}

#[test]
fn namespaces_opt_out_or_in_by_one_label() {
    for rendered in RENDERED.iter() {
        let choice = match &*rendered.case {
            "opt-in" => json!({"key": "pullpass.dev/inject", "operator": "In", "values": ["true"]}),
            _ => json!({"key": "pullpass.dev/inject", "operator": "NotIn", "values": ["false"]}),
        };
        let expressions = list(&webhook(rendered)["namespaceSelector"]["matchExpressions"]);
        assert!(expressions.contains(&choice), "{}", rendered.place());
    }
}

#[test]
fn incident_03_no_defaulted_webhook_field_is_missing() {
    // Every field of MutatingWebhook that the API server would fill in.
    let defaulted = [
        "failurePolicy",
        "matchPolicy",
        "namespaceSelector",
        "objectSelector",
        "reinvocationPolicy",
        "sideEffects",
        "timeoutSeconds",
        "admissionReviewVersions",
    ];
    for rendered in RENDERED.iter() {
        let (webhook, place) = (webhook(rendered), rendered.place());
        for field in defaulted {
            assert!(!webhook[field].is_null(), "{place}: {field}");
        }
        if rendered.case != "url" {
            assert_eq!(webhook["clientConfig"]["service"]["port"], 443, "{place}");
        }
        assert_eq!(
            webhook["name"], "pods.pullpass.dev",
            "{place}: its name is for ever"
        );
        assert_eq!(webhook["matchPolicy"], "Equivalent", "{place}");
        assert_eq!(webhook["reinvocationPolicy"], "IfNeeded", "{place}");
        assert_eq!(webhook["sideEffects"], "None", "{place}");
        let closed = rendered.case == "fail-closed";
        assert_eq!(
            webhook["failurePolicy"],
            if closed { "Fail" } else { "Ignore" },
            "{place}"
        );
        assert_eq!(
            webhook["timeoutSeconds"],
            if closed { 10 } else { 5 },
            "{place}"
        );
    }
}

#[test]
fn incidents_04_13_only_the_creation_of_pods_is_asked_about() {
    let rule = json!([{
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
        "scope": "Namespaced",
    }]);
    for rendered in RENDERED.iter() {
        assert_eq!(webhook(rendered)["rules"], rule, "{}", rendered.place());
    }
}

#[test]
fn incident_06_a_replica_leaves_only_after_its_successor_is_ready() {
    for (place, deployment) in deployments() {
        let strategy = json!({
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        });
        assert_eq!(deployment["spec"]["strategy"], strategy, "{place}");
    }
}

#[test]
fn incidents_15_18_nothing_of_certificates_is_rendered() {
    for rendered in in_cluster() {
        // Not even as an empty field, which would take the real one back at each upgrade.
        let client = webhook(rendered)["clientConfig"].as_object().unwrap();
        assert!(
            client.keys().eq(["service"]),
            "{}: {client:?}",
            rendered.place()
        );
    }
}

#[test]
fn incident_16_no_secret_is_rendered() {
    for rendered in RENDERED.iter() {
        assert_eq!(
            rendered.of_kind("Secret").count(),
            0,
            "{}",
            rendered.place()
        );
        for forbidden in ["PRIVATE KEY", "tls.key", "ca.key"] {
            assert!(!rendered.text.contains(forbidden), "{}", rendered.place());
        }
    }
}

#[test]
fn incident_17_two_renders_are_the_same_bytes() {
    for case in cases("valid") {
        let again = String::from_utf8(case.template("1.36").stdout).unwrap();
        let first = RENDERED
            .iter()
            .find(|rendered| rendered.case == case.name && rendered.kubernetes == "1.36");
        assert!(first.unwrap().text == again, "{}", case.name);
    }
}

#[test]
fn incident_17_no_template_asks_the_cluster_or_makes_keys() {
    let templates = super::helm::root().join("charts/pullpass/templates");
    let mut directories = vec![templates];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for function in [
                "lookup ",
                "genCA",
                "genSelfSigned",
                "genSigned",
                "genPrivateKey",
            ] {
                assert!(!text.contains(function), "{}: {function}", path.display());
            }
        }
    }
}

#[test]
fn incident_25_the_port_is_one_that_private_control_planes_reach() {
    for rendered in in_cluster().filter(|rendered| rendered.case == "defaults") {
        let place = rendered.place();
        assert!(rendered.text.contains("- --addr=[::]:10250"), "{place}");
        assert!(rendered.text.contains("containerPort: 10250"), "{place}");
    }
}

#[test]
fn incident_26_the_nodes_network_is_never_used_on_the_kubelets_port() {
    for rendered in RENDERED.iter() {
        for (place, spec) in rendered.pod_specs() {
            let on_host = spec["hostNetwork"] == true;
            assert_eq!(
                on_host,
                rendered.case == "host-network" && place.ends_with("-webhook")
            );
            for port in list(&spec["containers"][0]["ports"]) {
                assert!(!on_host || port["containerPort"] != 10250, "{place}");
                assert_eq!(port["hostPort"].is_null(), !on_host, "{place}");
            }
        }
    }
}

#[test]
fn incident_28_no_hook_but_the_test_and_no_image_but_ours_and_one_that_is_asked_for() {
    for rendered in RENDERED.iter() {
        for object in &rendered.objects {
            let annotations = object["metadata"]["annotations"].as_object();
            let hook = annotations.and_then(|annotations| annotations.get("helm.sh/hook"));
            let place = format!("{}: {}", rendered.place(), name(object));
            assert!(hook.is_none_or(|hook| hook == "test"), "{place}");
            assert_ne!(object["kind"], "Job", "{place}");
        }
        for (place, spec) in rendered.pod_specs() {
            let has_plugins = rendered.case == "plugins" && place.ends_with("-controller");
            let expected = has_plugins.then_some("registry.example.com/plugins:1");
            let mut first = list(&spec["initContainers"]).iter();
            let image = first
                .next()
                .and_then(|container| container["image"].as_str());
            assert_eq!((image, first.next()), (expected, None), "{place}");
            let image = match &*rendered.case {
                "image" => {
                    "registry.example.com:5000/mirror/pullpass@sha256:\
                     aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                }
                _ => concat!("ghcr.io/pullpass/pullpass:", env!("CARGO_PKG_VERSION")),
            };
            for container in list(&spec["containers"]) {
                assert_eq!(container["image"], image, "{place}");
            }
        }
    }
}

#[test]
fn incident_29_only_the_webhooks_port_is_open_to_everyone() {
    for rendered in RENDERED.iter() {
        let policies: Vec<_> = rendered.of_kind("NetworkPolicy").collect();
        let expected = match &*rendered.case {
            "everything-off" => 0,
            "url" | "host-network" => 1,
            _ => 2,
        };
        assert_eq!(policies.len(), expected, "{}", rendered.place());
        for policy in policies {
            let place = format!("{}: {}", rendered.place(), name(policy));
            assert_eq!(
                policy["spec"]["policyTypes"],
                json!(["Ingress", "Egress"]),
                "{place}"
            );
            let ingress = list(&policy["spec"]["ingress"]).iter();
            let open = ingress.filter(|rule| list(&rule["from"]).is_empty());
            let open: Vec<_> = open.map(|rule| &rule["ports"][0]["port"]).collect();
            match name(policy).ends_with("-webhook") {
                true => assert_eq!(open, ["https"], "{place}"),
                false => assert!(open.is_empty(), "{place}: {open:?}"),
            }
        }
    }
}

#[test]
fn incident_40_no_cpu_limit_and_always_a_memory_limit() {
    for rendered in RENDERED.iter() {
        for (place, spec) in rendered.pod_specs() {
            let limits = &spec["containers"][0]["resources"]["limits"];
            assert!(
                limits["cpu"].is_null() && !limits["memory"].is_null(),
                "{place}"
            );
        }
    }
}

#[test]
fn incident_41_our_own_image_can_have_a_pull_secret() {
    for rendered in RENDERED.iter() {
        for (place, spec) in rendered.pod_specs() {
            let secrets = &spec["imagePullSecrets"];
            match &*rendered.case {
                "image" => assert_eq!(secrets, &json!([{"name": "our-own-registry"}]), "{place}"),
                _ => assert!(secrets.is_null(), "{place}"),
            }
        }
    }
}

#[test]
fn a_drain_never_waits_for_a_replica_that_is_not_ready() {
    for rendered in in_cluster().filter(|rendered| rendered.case != "everything-off") {
        let spec = &rendered.one("PodDisruptionBudget")["spec"];
        assert_eq!(spec["maxUnavailable"], 1, "{}", rendered.place());
        assert_eq!(
            spec["unhealthyPodEvictionPolicy"],
            "AlwaysAllow",
            "{}",
            rendered.place()
        );
    }
}

#[test]
fn every_pod_runs_on_linux_with_a_short_lived_token_and_a_read_only_root() {
    for rendered in RENDERED.iter() {
        for (place, spec) in rendered.pod_specs() {
            assert_eq!(spec["os"]["name"], "linux", "{place}");
            assert_eq!(spec["nodeSelector"]["kubernetes.io/os"], "linux", "{place}");
            assert_eq!(spec["automountServiceAccountToken"], false, "{place}");
            let token = &spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
            assert_eq!(token["expirationSeconds"], 3600, "{place}");
            let container = &spec["containers"][0]["securityContext"];
            assert_eq!(container["readOnlyRootFilesystem"], true, "{place}");
            for who in [spec, &spec["containers"][0]] {
                assert!(who["securityContext"]["runAsUser"].is_null(), "{place}");
            }
        }
    }
}

#[test]
fn incident_44_how_long_the_api_server_waits_is_a_choice() {
    let render = |seconds: u32| {
        let mut helm = tool("helm");
        helm.args(["template", "charts/pullpass", "--namespace=pullpass"]);
        let timeout = format!("--set=webhook.timeoutSeconds={seconds}");
        helm.arg(timeout).output().unwrap()
    };
    for seconds in [1, 30] {
        let rendered = objects(&String::from_utf8_lossy(&render(seconds).stdout));
        let mut all = rendered.iter();
        let found = all.find(|object| object["kind"] == "MutatingWebhookConfiguration");
        let webhook = &found.unwrap()["webhooks"][0];
        assert_eq!(webhook["timeoutSeconds"], seconds);
        // One that comes too late refuses nobody.
        assert_eq!(webhook["failurePolicy"], "Ignore");
    }
    for seconds in [0, 31] {
        let refused = render(seconds);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{seconds}");
        assert!(said.contains("timeoutSeconds"), "{said}");
    }
}
