{{/*
The Deployment of one role. Argument:
(dict "root" $ "component" X "values" .Values.X "args" LIST "ports" (dict NAME NUMBER) "hostNetwork" BOOL), and
"plugins" .Values.X.plugins where programs are to be copied from an image.
*/}}
{{- define "pullpass.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "pullpass.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "pullpass.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicas }}
  revisionHistoryLimit: 3
  selector:
    matchLabels:
      {{- include "pullpass.selectorLabels" . | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      # A replica leaves only once its successor is ready: with one replica, too.
      maxUnavailable: 0
      maxSurge: 1
  template:
    metadata:
      labels:
        {{- mustMergeOverwrite (deepCopy .values.podLabels) (include "pullpass.selectorLabels" . | fromYaml) | toYaml | nindent 8 }}
      {{- with .values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "pullpass.podSpec" . | nindent 6 }}
{{- end }}

{{- define "pullpass.podSpec" -}}
serviceAccountName: {{ include "pullpass.fullname" .root }}-{{ .component }}
# The token is the projected one below.
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- if .hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
# 10 s of draining, 30 s for the longest request, and a rest.
terminationGracePeriodSeconds: 45
os:
  name: linux
nodeSelector:
  {{- mustMergeOverwrite (deepCopy .values.nodeSelector) (dict "kubernetes.io/os" "linux") | toYaml | nindent 2 }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "pullpass.selectorLabels" . | nindent 14 }}
  {{- end }}
topologySpreadConstraints:
  {{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    # Count the replicas of one revision: those being replaced do not matter.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "pullpass.selectorLabels" $ | nindent 8 }}
  {{- end }}
  {{- end }}
securityContext:
  {{- include "pullpass.podSecurity" . | nindent 2 }}
{{- with .plugins }}{{ if .copyCommand }}
initContainers:
  - name: plugins
    image: {{ .image | quote }}
    imagePullPolicy: {{ .pullPolicy }}
    command:
      {{- toYaml .copyCommand | nindent 6 }}
    resources:
      {{- toYaml $.values.resources | nindent 6 }}
    securityContext:
      {{- include "pullpass.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - name: plugins
        mountPath: /target
{{- end }}{{ end }}
containers:
  - name: {{ .component }}
    image: {{ include "pullpass.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      {{- concat .args .values.extraArgs | toYaml | nindent 6 }}
    {{- with .values.extraEnv }}
    env:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    ports:
      {{- range $name, $port := .ports }}
      - name: {{ $name }}
        containerPort: {{ $port }}
        protocol: TCP
        {{- if $.hostNetwork }}
        # The scheduler keeps a second replica off the node, where the port would be taken.
        hostPort: {{ $port }}
        {{- end }}
      {{- end }}
    livenessProbe:
      httpGet:
        path: /livez
        port: metrics
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    readinessProbe:
      httpGet:
        path: /readyz
        port: metrics
      # A rollout waits for this, twice per replica; the answer costs nothing.
      periodSeconds: 2
      timeoutSeconds: 5
      failureThreshold: 3
    resources:
      {{- toYaml .values.resources | nindent 6 }}
    securityContext:
      {{- include "pullpass.containerSecurity" . | nindent 6 }}
    volumeMounts:
      {{- include "pullpass.tokenMount" . | nindent 6 }}
      {{- if .plugins }}
      - name: plugins
        mountPath: /plugins
        readOnly: true
      {{- end }}
      {{- with .values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  {{- include "pullpass.tokenVolume" . | nindent 2 }}
  {{- if .plugins }}
  - name: plugins
    {{- if .plugins.copyCommand }}
    emptyDir: {}
    {{- else }}
    image:
      reference: {{ .plugins.image | quote }}
      pullPolicy: {{ .plugins.pullPolicy }}
    {{- end }}
  {{- end }}
  {{- with .values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Where a ServiceAccount's token is mounted: what automounting would mount, but it lives an hour and is not extended. */}}
{{- define "pullpass.tokenVolume" -}}
- name: token
  projected:
    # 0444, not 0400: the user is not known here.
    defaultMode: 292
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                apiVersion: v1
                fieldPath: metadata.namespace
{{- end }}

{{- define "pullpass.tokenMount" -}}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}

{{- define "pullpass.podSecurity" -}}
# No runAsUser: the image's user is a number that is not root, and OpenShift chooses its own.
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "pullpass.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
