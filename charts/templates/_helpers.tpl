{{- define "dlcloud.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "dlcloud.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "dlcloud.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "dlcloud.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "dlcloud.namespace" -}}
{{- if .Values.namespaceOverride }}
{{- .Values.namespaceOverride }}
{{- else if eq .Release.Namespace "default" -}}
dlcloud-system
{{- else }}
{{- .Release.Namespace }}
{{- end }}
{{- end }}

{{/* Cluster-scoped names carry the namespace, so that two releases of one name can live in one cluster. */}}
{{- define "dlcloud.clusterName" -}}
{{ include "dlcloud.namespace" . }}-{{ include "dlcloud.fullname" . }}
{{- end }}

{{- define "dlcloud.chartLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: dlcloud
{{- end }}

{{- define "dlcloud.selector" -}}
app.kubernetes.io/name: dlcloud-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dlcloud.labels" -}}
{{ include "dlcloud.selector" . }}
{{ include "dlcloud.chartLabels" . }}
{{- end }}

{{- define "dlcloud.s3.selector" -}}
app.kubernetes.io/name: dlcloud-s3
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dlcloud.s3.labels" -}}
{{ include "dlcloud.s3.selector" . }}
app.kubernetes.io/component: object-store
{{ include "dlcloud.chartLabels" . }}
{{- end }}

{{- define "dlcloud.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (printf "%s-operator" (include "dlcloud.fullname" .)) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: give the name of an existing service account, because serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* (image, default tag) */}}
{{- define "dlcloud.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) }}
{{- end }}
{{- end }}

{{- define "dlcloud.operatorImage" -}}
{{ include "dlcloud.image" (list .Values.image .Chart.AppVersion) }}
{{- end }}

{{- define "dlcloud.rendezvousName" -}}
{{ include "dlcloud.fullname" . }}-rendezvous
{{- end }}

{{- define "dlcloud.rendezvousUrl" -}}
{{- default (printf "https://%s.%s.svc:%v" (include "dlcloud.rendezvousName" .) (include "dlcloud.namespace" .) .Values.rendezvous.port) .Values.rendezvous.url }}
{{- end }}

{{- define "dlcloud.metricsName" -}}
{{ include "dlcloud.fullname" . }}-metrics
{{- end }}

{{/* "ca" when the operator signs its own certificates, "certificate" when it is given them. */}}
{{- define "dlcloud.tlsHolds" -}}
{{- if .Values.tls.existingSecret }}{{ .Values.tls.existingSecretHolds }}{{ else if .Values.tls.certManager.enabled }}certificate{{ else }}ca{{ end }}
{{- end }}

{{- define "dlcloud.tlsSecret" -}}
{{- if .Values.tls.existingSecret }}
{{- .Values.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled }}
{{- include "dlcloud.fullname" . }}-rendezvous-tls
{{- else }}
{{- include "dlcloud.fullname" . }}-ca
{{- end }}
{{- end }}

{{/* "true" when the S3 server is part of the release. */}}
{{- define "dlcloud.s3.bundled" -}}
{{- if and .Values.s3.enabled (not .Values.objectStore.endpoint) }}true{{ end }}
{{- end }}

{{- define "dlcloud.s3.name" -}}
{{ include "dlcloud.fullname" . }}-s3
{{- end }}

{{- define "dlcloud.s3.endpoint" -}}
http://{{ include "dlcloud.s3.name" . }}.{{ include "dlcloud.namespace" . }}.svc:{{ .Values.s3.port }}
{{- end }}

{{- define "dlcloud.s3.secret" -}}
{{- default (include "dlcloud.s3.name" .) .Values.s3.existingSecret }}
{{- end }}

{{- define "dlcloud.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "dlcloud.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What contradicts itself, refused with a sentence before anything is made. */}}
{{- define "dlcloud.check" -}}
{{- $own := include "dlcloud.namespace" . }}
{{- if has $own .Values.watchNamespaces }}
{{- fail (printf "watchNamespaces: %q is the operator's own namespace, where TrainingJobs are refused; leave it out, or set namespaceOverride" $own) }}
{{- end }}
{{- if and (include "dlcloud.s3.bundled" .) (has $own .Values.s3.jobNamespaces) }}
{{- fail (printf "s3.jobNamespaces: %q is the operator's own namespace, where TrainingJobs are refused; leave it out, or set namespaceOverride" $own) }}
{{- end }}
{{- if and .Values.tls.existingSecret .Values.tls.certManager.enabled }}
{{- fail "tls: existingSecret and certManager.enabled are both given; choose one" }}
{{- end }}
{{- if eq (int .Values.metrics.port) (int .Values.rendezvous.port) }}
{{- fail (printf "metrics.port: %v is rendezvous.port as well; give another" .Values.metrics.port) }}
{{- end }}
{{- end }}
