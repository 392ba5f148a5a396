//! Asks the API server for everything the checks look at, with the caller's rights. It judges nothing,
//! and writes nothing: the one create is a dry run.

use std::net::{IpAddr, SocketAddr};

use futures_util::StreamExt as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::access;
use super::facts::{
    Facts, Looked, Names, Plan, Proxied, Replica, Right, Target, Trial, component_of, server_name,
    webhook_of,
};
use super::trial;
use crate::http::client::{CallError, call};
use crate::installation::workloads::Pod;
use crate::installation::{Answer, ApiServer, Chosen, Found};
use crate::rules;
use crate::rules::config::RULES_KEY;
use crate::status::{self, Scope};

/// Questions about rights that are asked at once: few enough for any API server's fairness.
const QUESTIONS_AT_ONCE: usize = 8;
/// Most Pods that are asked for their own words.
const REPLICAS_ASKED: usize = 10;
/// Port of the probes if the Pod names none `metrics`.
const PROBE_PORT: i32 = 8080;

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Which installation.
    pub chosen: Chosen,
    /// Namespace whose Pods are asked about, and in which one is tried.
    pub check_namespace: String,
    /// Image of the trial Pod; `None`: made up from the rules.
    pub image: Option<String>,
    /// Whether addresses of Services can be called from here.
    pub inside: bool,
}

/// Looks at everything; `progress` is told what comes next.
pub async fn fetch(
    server: &ApiServer,
    fallback_namespace: &str,
    asked: &Asked,
    progress: &dyn Fn(&str),
) -> Facts {
    progress("configuration");
    let found = server.find(&asked.chosen, fallback_namespace).await;
    let ask = Ask { server, asked };
    progress("replicas");
    let pods = ask.server.labelled::<Pod>(&found.names).await;
    let replicas = ask.replicas(&found.names, &pods).await;
    let budgets = ask.server.labelled(&found.names).await;
    progress("certificate");
    let chain = ask.chain(&found.names).await;
    let webhook = found
        .configurations
        .seen()
        .and_then(|all| webhook_of(all.first()?));
    let target = webhook.map(Target::of);
    progress("service");
    let (service, slices) = ask.service(target.as_ref()).await;
    let proxied = ask.proxied(target.as_ref()).await;
    let bundle = webhook.and_then(|webhook| webhook.client_config.ca_bundle.as_ref());
    let bundle = bundle.map_or(&[][..], |bundle| &bundle.0);
    let direct = ask.direct(target.as_ref(), &service, bundle).await;
    progress("rules");
    let rules = ask
        .server
        .text_of(&found.names, &found.names.rules, RULES_KEY)
        .await;
    let scope = Scope {
        pull_secret: None,
        pods: false,
    };
    // Why there is none, the check of the rules says.
    let delivery = status::fetch(server, &found, scope, progress).await.ok();
    let Found {
        names,
        configurations,
        deployments,
    } = found;
    progress("access");
    let copying = ask.copying(&names, delivery.as_ref()).await;
    let attaching = ask.attaching(&names, delivery.as_ref()).await;
    let access = ask.access(&names, target.as_ref()).await;
    progress("admission");
    let namespace = ask
        .server
        .one::<Namespace>(None, &asked.check_namespace)
        .await;
    let trial = ask.trial(&rules, &namespace).await;
    Facts {
        version: ask.server.version(),
        names,
        configurations,
        service,
        slices,
        proxied,
        direct,
        chain,
        trial,
        rules,
        delivery,
        copying,
        attaching,
        deployments,
        pods,
        replicas,
        budgets,
        access,
        namespace: (asked.check_namespace.clone(), namespace),
    }
}

struct Ask<'a> {
    server: &'a ApiServer,
    asked: &'a Asked,
}

impl Ask<'_> {
    /// The certificates of the TLS Secret; its key is dropped here.
    async fn chain(&self, names: &Names) -> Looked<Vec<u8>> {
        let secret: Looked<Secret> = self
            .server
            .one(Some(&names.namespace), &names.tls_secret)
            .await;
        secret.map(|secret| {
            let data = secret.data.unwrap_or_default();
            let chain = data.into_iter().find(|(key, _)| key == "tls.crt");
            chain.map(|(_, bytes)| bytes.0).unwrap_or_default()
        })
    }

    async fn service(
        &self,
        target: Option<&Target>,
    ) -> (Looked<Service>, Looked<Vec<EndpointSlice>>) {
        let Some(Target::Service {
            namespace, name, ..
        }) = target
        else {
            return (Looked::Absent, Looked::Absent);
        };
        let slices: Api<EndpointSlice> = Api::namespaced(self.server.client(), namespace);
        let of_service = format!("kubernetes.io/service-name={name}");
        let slices = slices
            .list(&ListParams::default().labels(&of_service))
            .await;
        let service = self.server.one(Some(namespace), name).await;
        (service, Looked::of(slices.map(|list| list.items)))
    }

    /// A GET through the API server's proxy: it dials a ready endpoint as it would for the webhook
    /// call, and unlike that call it says what went wrong.
    async fn proxied(&self, target: Option<&Target>) -> Option<Looked<Proxied>> {
        let Some(Target::Service {
            namespace,
            name,
            port,
            path,
        }) = target
        else {
            return None;
        };
        let path =
            format!("/api/v1/namespaces/{namespace}/services/https:{name}:{port}/proxy{path}");
        Some(match self.server.get(&path).await {
            Ok(Answer {
                status,
                status_object: None,
                ..
            }) => Looked::Seen(Proxied::Answered(status)),
            Ok(Answer {
                status: 401 | 403,
                status_object: Some(said),
                ..
            }) => Looked::Denied(said),
            Ok(Answer {
                status_object: Some(said),
                ..
            }) => Looked::Seen(Proxied::Unreached(said)),
            Err(error) => Looked::Failed(error),
        })
    }

    /// A verified call of the Service's own address.
    async fn direct(
        &self,
        target: Option<&Target>,
        service: &Looked<Service>,
        bundle: &[u8],
    ) -> Option<Result<u16, CallError>> {
        let target = target.filter(|_| self.asked.inside)?;
        let Target::Service {
            namespace,
            name,
            port,
            path,
        } = target
        else {
            return None;
        };
        let address = service.seen()?.spec.as_ref()?.cluster_ip.as_ref()?;
        // A headless Service has no address, only the name `None`.
        let address: IpAddr = address.parse().ok()?;
        let address = SocketAddr::new(address, u16::try_from(*port).ok()?);
        Some(call(address, &server_name(namespace, name), path, bundle).await)
    }

    /// What the Pods of both roles say about themselves; of the webhook's, also what they count.
    async fn replicas(&self, names: &Names, pods: &Looked<Vec<Pod>>) -> Vec<Replica> {
        let pods = pods.seen().map(Vec::as_slice).unwrap_or_default();
        let roles = pods
            .iter()
            .filter_map(|pod| Some((pod, component_of(pod)?)));
        let roles = roles.filter(|(_, role)| matches!(*role, "webhook" | "controller"));
        let mut replicas = Vec::new();
        for (pod, role) in roles.take(REPLICAS_ASKED) {
            let (namespace, name) = (&names.namespace, pod.name_any());
            let port = probe_port(pod);
            let proxy = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy");
            replicas.push(Replica {
                ready: self.server.text(&format!("{proxy}/readyz")).await,
                metrics: match role {
                    "webhook" => self.server.text(&format!("{proxy}/metrics")).await,
                    _ => Looked::Absent,
                },
                pod: name,
            });
        }
        replicas
    }

    async fn access(&self, names: &Names, target: Option<&Target>) -> Vec<(Right, Looked<bool>)> {
        let namespace = &names.namespace;
        let questions = access::rights(names, target)
            .into_iter()
            .map(async |right| {
                let answer = self.may(&right, namespace).await;
                (right, answer)
            });
        let questions = futures_util::stream::iter(questions);
        questions.buffered(QUESTIONS_AT_ONCE).collect().await
    }

    /// Whether the controller may write Secrets of the names that copies have, anywhere.
    async fn copying(
        &self,
        names: &Names,
        delivery: Option<&status::Facts>,
    ) -> Vec<(String, Looked<bool>)> {
        let delivery = delivery.filter(|delivery| delivery.delivers != Some(false));
        let rules = delivery.and_then(|delivery| delivery.state.rules.as_ref());
        let copied = rules
            .into_iter()
            .flat_map(|rules| rules.plan.secret_names());
        let questions = copied.map(async |name| {
            let right = Right::to_copy(names, name);
            (name.to_string(), self.may(&right, &names.namespace).await)
        });
        let questions = futures_util::stream::iter(questions);
        questions.buffered(QUESTIONS_AT_ONCE).collect().await
    }

    /// Whether the controller may patch ServiceAccounts, if it has to.
    async fn attaching(
        &self,
        names: &Names,
        delivery: Option<&status::Facts>,
    ) -> Option<Looked<bool>> {
        let delivery = delivery.filter(|delivery| delivery.delivers != Some(false))?;
        if !delivery.state.attaches() {
            return None;
        }
        let right = Right::to_attach(names);
        Some(self.may(&right, &names.namespace).await)
    }

    async fn may(&self, right: &Right, namespace: &str) -> Looked<bool> {
        let account = &right.account;
        let (resource, part) = match right.resource.split_once('/') {
            Some((resource, part)) => (resource, Some(part.to_owned())),
            None => (right.resource, None),
        };
        let groups = ["system:serviceaccounts", "system:authenticated"];
        let mut groups: Vec<_> = groups.into_iter().map(str::to_owned).collect();
        groups.push(format!("system:serviceaccounts:{namespace}"));
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{namespace}:{account}")),
                groups: Some(groups),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(right.verb.to_owned()),
                    group: Some(right.group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: part,
                    name: right.name.clone(),
                    namespace: right.namespace.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.server.client());
        let answer = Looked::of(api.create(&PostParams::default(), &review).await);
        answer.map(|review| review.status.is_some_and(|status| status.allowed))
    }

    async fn trial(&self, rules: &Looked<Option<String>>, namespace: &Looked<Namespace>) -> Trial {
        let text = rules.seen().and_then(Option::as_deref);
        let config = text.and_then(|text| rules::load(text).ok());
        let labels = namespace.seen().map(|object| object.labels().clone());
        let plan = trial::plan(
            config.as_ref(),
            &self.asked.check_namespace,
            labels.unwrap_or_default(),
            self.asked.image.as_deref(),
        );
        let before = self.server.text("/metrics").await;
        let created = self.dry_run(&plan).await;
        let after = self.server.text("/metrics").await;
        let count = |metrics: &Looked<String>| Some(trial::fail_open_count(metrics.seen()?));
        Trial {
            fail_open: count(&before).zip(count(&after)),
            plan,
            created,
        }
    }

    async fn dry_run(&self, plan: &Plan) -> Looked<Result<Vec<String>, String>> {
        let pod = match serde_json::from_value::<DynamicObject>(trial::pod(&plan.image)) {
            Ok(pod) => pod,
            Err(error) => return Looked::Failed(error.to_string()),
        };
        let kind = ApiResource::erase::<Pod>(&());
        let namespace = &self.asked.check_namespace;
        let api: Api<DynamicObject> = Api::namespaced_with(self.server.client(), namespace, &kind);
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        match api.create(&dry_run, &pod).await {
            Ok(pod) => {
                let list = pod.data.pointer("/spec/imagePullSecrets");
                let list = list.and_then(Value::as_array);
                let names = list.into_iter().flatten();
                let names = names.filter_map(|entry| entry.get("name")?.as_str());
                Looked::Seen(Ok(names.map(str::to_owned).collect()))
            }
            Err(kube::Error::Api(status)) => match status.code {
                404 if status.message.starts_with("namespaces ") => Looked::Absent,
                401 => Looked::Denied(status.message),
                403 if status.message.contains("cannot create resource") => {
                    Looked::Denied(status.message)
                }
                _ => Looked::Seen(Err(status.message)),
            },
            Err(error) => Looked::Failed(error.to_string()),
        }
    }
}

fn probe_port(pod: &Pod) -> i32 {
    let containers = pod.spec.containers.iter();
    let mut ports = containers.flat_map(|container| &container.ports);
    let metrics = ports.find(|port| port.name.as_deref() == Some("metrics"));
    metrics.map_or(PROBE_PORT, |port| port.container_port)
}
