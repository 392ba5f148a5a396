// Pod Security Standards, decided by the API server's own code, for tests/chart.
//
// It reads one JSON object a line from standard input, {"name", "spec": PodSpec}, checks it against the level
// "restricted" in its newest version, and writes one line for each reason why such a Pod would be refused.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

type question struct {
	Name string         `json:"name"`
	Spec corev1.PodSpec `json:"spec"`
}

func main() {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		log.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			log.Fatal(err)
		}
		for _, result := range evaluator.EvaluatePod(restricted, &metav1.ObjectMeta{}, &asked.Spec) {
			if !result.Allowed {
				fmt.Printf("%s: %s: %s\n", asked.Name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}
