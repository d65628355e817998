{{- define "dpojob.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Release "dpojob" gives dpojob-operator, "my-dpojob-operator" itself, "team" gives team-dpojob-operator. */ -}}
{{- define "dpojob.fullname" -}}
{{- $name := include "dpojob.name" . }}
{{- $full := printf "%s-%s" .Release.Name $name }}
{{- if .Values.fullnameOverride }}
{{- $full = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- $full = .Release.Name }}
{{- else if hasPrefix .Release.Name $name }}
{{- $full = $name }}
{{- end }}
{{- $full | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dpojob.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dpojob.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dpojob.labels" -}}
{{ include "dpojob.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "dpojob.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "dpojob.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dpojob.subject" -}}
- kind: ServiceAccount
  name: {{ include "dpojob.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- /* What the operator does in a namespace with DPOJobs: the rules of a ClusterRole or of one Role per namespace. */ -}}
{{- define "dpojob.rules" -}}
- apiGroups: [dpojob.io]
  resources: [dpojobs]
  verbs: [get, list, watch, delete]
- apiGroups: [dpojob.io]
  resources: [dpojobs/status]
  verbs: [get, patch]
# Needed for blockOwnerDeletion where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [dpojob.io]
  resources: [dpojobs/finalizers]
  verbs: [update]
- apiGroups: [ray.io]
  resources: [rayjobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, list, watch, delete]
# Kueue's words on a job that it holds back; only asked for jobs with a queue.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
# Examines the data before a slice is asked for (dataset.gate.preflight).
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, create, delete]
# Looks at the one Secret a DPOJob names, to say which key is missing; never lists.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
- apiGroups: [""]
  resources: [serviceaccounts, persistentvolumeclaims]
  verbs: [get]
# Tells whether a quota has room for an attempt at all.
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [list]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
