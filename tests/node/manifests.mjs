// What the schemas of KEDA, prometheus-operator and the Gateway API say of documents: JSON on standard input, a list of
// complaints on standard output. Kinds that none of them knows are left to others.
import { readFileSync } from "node:fs";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { TriggerAuthentication } from "@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";

const models = { HTTPRoute, PodMonitor, PrometheusRule, ScaledObject, TriggerAuthentication };
const complaints = [];
for (const document of JSON.parse(readFileSync(0, "utf8"))) {
  const Model = models[document.kind];
  if (Model === undefined) continue;
  if (document.apiVersion !== Model.apiVersion) complaints.push(`${document.kind} is not of ${document.apiVersion}`);
  try {
    new Model(document).validate();
  } catch (error) {
    complaints.push(`${document.kind} ${document.metadata.name}: ${error.message}`);
  }
}
process.stdout.write(JSON.stringify(complaints));
