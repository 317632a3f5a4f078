"""Values that people set, each worth a look by an API server; `team-a` and `team-b` are namespaces that exist."""

from __future__ import annotations

from typing import Any

EGRESS = [{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443, "protocol": "TCP"}]}]
MATRIX: dict[str, dict[str, Any]] = {
    "default": {},
    "two replicas": {"replicas": 2},
    "some namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "token review in some namespaces": {"watchNamespaces": ["team-a"], "tokenReview": {"enabled": True}},
    "issuer discovery bound": {"issuerDiscovery": {"bind": True}},
    "CA given": {"tls": {"existingSecret": "our-ca"}},
    "certificate given": {"tls": {"existingSecret": "our-tls", "existingSecretHolds": "certificate"}},
    "cert-manager": {"tls": {"certManager": {"enabled": True}}},
    "issuer given": {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ours", "kind": "ClusterIssuer"}}}},
    "external S3": {"objectStore": {"endpoint": "https://s3.example.com", "credentialsSecret": "keys"}},
    "no S3": {"s3": {"enabled": False}},
    "minio": {"s3": {"kind": "minio", "jobNamespaces": ["default", "team-a"], "persistence": {"storageClass": "fast"}}},
    "S3 secret given": {"s3": {"existingSecret": "our-keys"}},
    "monitoring": {
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True, "annotations": {"folder": "training"}},
        }
    },
    "no network policies": {"networkPolicy": {"enabled": False}},
    "egress": {"networkPolicy": {"egress": EGRESS, "operator": {"enabled": True}}},
    "no definition": {"crds": {"install": False}},
    "another namespace": {"namespaceOverride": "team-a", "createNamespace": False},
    "no aggregated roles": {"rbac": {"aggregateRoles": False}},
    "own service account": {"serviceAccount": {"create": False, "name": "ours"}},
    "everything of a pod": {
        "image": {"repository": "registry.example.com:5000/team/dlcloud-operator", "digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"example.com/team": "c"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "priorityClassName": "system-cluster-critical",
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "allowPrivilegedPodTemplates": True,
        "fullnameOverride": "training",
        "serviceAccount": {"annotations": {"example.com/role": "d"}},
        "s3": {"tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"}, "priorityClassName": "low"},
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is not there": ({"imge": {}}, "additional properties 'imge' not allowed"),
    "a name that is not there, further in": ({"s3": {"size": "1Gi"}}, "additional properties 'size' not allowed"),
    "a word that is not offered": ({"s3": {"kind": "ceph"}}, "value must be one of 'seaweedfs', 'minio'"),
    "a number as text": ({"replicas": "2"}, "at '/replicas': got string, want integer"),
    "a URL without a scheme": ({"objectStore": {"endpoint": "s3.example.com"}}, "at '/objectStore/endpoint'"),
    "a namespace that cannot be": ({"watchNamespaces": ["Team A"]}, "at '/watchNamespaces/0'"),
    "a bucket that cannot be": ({"s3": {"buckets": ["Check_Points"]}}, "at '/s3/buckets/0'"),
    "a port below 1024": ({"metrics": {"port": 80}}, "at '/metrics/port': minimum: got 80, want 1,024"),
    "no duration": ({"tls": {"certManager": {"duration": "90 days"}}}, "at '/tls/certManager/duration'"),
    "no digest": ({"image": {"digest": "latest"}}, "at '/image/digest'"),
    "the namespace of users": ({"namespaceOverride": "default"}, "at '/namespaceOverride'"),
    "a number among labels": ({"podLabels": {"a": 1}}, "at '/podLabels/a': got number, want string"),
    "jobs beside the operator": (
        {"watchNamespaces": ["dlcloud-system"]},
        'watchNamespaces: "dlcloud-system" is the operator\'s own namespace',
    ),
    "keys beside the operator": (
        {"s3": {"jobNamespaces": ["dlcloud-system"]}},
        's3.jobNamespaces: "dlcloud-system" is the operator\'s own namespace',
    ),
    "two kinds of certificates": (
        {"tls": {"existingSecret": "a", "certManager": {"enabled": True}}},
        "tls: existingSecret and certManager.enabled are both given; choose one",
    ),
    "one port for two servers": ({"metrics": {"port": 8443}}, "metrics.port: 8443 is rendezvous.port as well"),
    "no service account": ({"serviceAccount": {"create": False}}, "serviceAccount.name: give the name"),
}
