{{/*
Combinations of values that would install something dangerous or broken. All findings at once, each with its fix.
What one value may hold on its own is said in values.schema.json.
*/}}
{{- define "pullpass.validate" -}}
{{- $webhook := .Values.webhook -}}
{{- $findings := list -}}

{{- if has .Release.Namespace (list "kube-system" "kube-public" "kube-node-lease") -}}
{{- $findings = append $findings (printf "release namespace %s belongs to Kubernetes: install into a namespace of pullpass' own, for example `--namespace pullpass --create-namespace`" .Release.Namespace) -}}
{{- end -}}

{{- $fullname := include "pullpass.fullname" . -}}
{{- if not (regexMatch "^[a-z]" $fullname) -}}
{{- $findings = append $findings (printf "object names would begin with %q, and those of Services must begin with a letter: choose another release name, or set fullnameOverride" $fullname) -}}
{{- end -}}

{{- if eq $webhook.failurePolicy "Fail" -}}
{{- if $webhook.url -}}
{{- $findings = append $findings "webhook.failurePolicy Fail with webhook.url: no Pod could start while the program on your machine is away; set webhook.failurePolicy to Ignore" -}}
{{- else if lt (int $webhook.replicas) 2 -}}
{{- $findings = append $findings (printf "webhook.failurePolicy Fail with webhook.replicas %d: no Pod could start while that replica restarts; set webhook.replicas to at least 2, or webhook.failurePolicy to Ignore" (int $webhook.replicas)) -}}
{{- end -}}
{{- if not .Values.podDisruptionBudget.enabled -}}
{{- $findings = append $findings "webhook.failurePolicy Fail without podDisruptionBudget.enabled: draining nodes could take every replica at once; set podDisruptionBudget.enabled to true, or webhook.failurePolicy to Ignore" -}}
{{- end -}}
{{- end -}}

{{- if and $webhook.hostNetwork (eq (int $webhook.port) 10250) -}}
{{- $findings = append $findings "webhook.hostNetwork with webhook.port 10250: on a node that port is the kubelet's; set webhook.port to a free one, for example 10260" -}}
{{- end -}}
{{- if eq (int $webhook.port) (int $webhook.probePort) -}}
{{- $findings = append $findings (printf "webhook.port and webhook.probePort are both %d: set one of them to another port" (int $webhook.port)) -}}
{{- end -}}

{{- if and $webhook.url (not $webhook.caBundle) -}}
{{- $findings = append $findings "webhook.url without webhook.caBundle: the API server could not verify the server; give its CA, for example `--set-file webhook.caBundle=ca.crt` (`pullpass webhook --ca-out ca.crt` writes it)" -}}
{{- end -}}
{{- if and $webhook.caBundle (not $webhook.url) -}}
{{- $findings = append $findings "webhook.caBundle without webhook.url: in the cluster the controller (or cert-manager) writes the caBundle, and a rendered one would take it back at each upgrade; remove webhook.caBundle, and use certificates.mode provided for certificates of your own" -}}
{{- end -}}
{{- if and $webhook.url (ne .Values.certificates.mode "self") -}}
{{- $findings = append $findings (printf "certificates.mode %s with webhook.url: the server behind the URL has its own certificate; leave certificates.mode at self" .Values.certificates.mode) -}}
{{- end -}}

{{- $rules := concat .Values.rules.pullSecrets .Values.rules.rules -}}
{{- if and .Values.existingRulesConfigMap $rules -}}
{{- $findings = append $findings (printf "rules and existingRulesConfigMap %s are both set: only one would be used; remove one of them" .Values.existingRulesConfigMap) -}}
{{- end -}}
{{- if gt (len (include "pullpass.rules" .)) 1048576 -}}
{{- $findings = append $findings "rules are larger than 1 MiB, the most a ConfigMap holds: use patterns with `*`, or fewer rules" -}}
{{- end -}}
{{- if and .Values.delivery.enabled .Values.existingRulesConfigMap (not .Values.delivery.secretNames) -}}
{{- $findings = append $findings (printf "delivery.enabled with existingRulesConfigMap %s: the chart cannot see which Secrets those rules hand out, and permissions are by name; list them in delivery.secretNames, or set delivery.enabled to false" .Values.existingRulesConfigMap) -}}
{{- end -}}

{{- if and .Values.controller.recovery.enabled (not .Values.delivery.enabled) -}}
{{- $findings = append $findings "controller.recovery without delivery.enabled: only Pods are evicted that would get a copy which the controller delivers; set delivery.enabled, or leave controller.recovery.enabled off" -}}
{{- end -}}

{{- $plugins := .Values.controller.plugins -}}
{{- if and $plugins.image (not $plugins.copyCommand) (semverCompare "<1.36-0" .Capabilities.KubeVersion.Version) -}}
{{- $findings = append $findings (printf "controller.plugins without copyCommand on Kubernetes %s: before 1.36 image volumes are mounted noexec, and no program in them could run; set controller.plugins.copyCommand" .Capabilities.KubeVersion.Version) -}}
{{- end -}}

{{- if $findings -}}
{{- fail (printf "\n\npullpass: these values must not be installed:\n- %s\n" (join "\n- " $findings)) -}}
{{- end -}}
{{- end }}
