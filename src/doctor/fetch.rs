//! Asks the API server for everything the checks look at, with the caller's rights. It judges nothing,
//! and writes nothing: the one create is a dry run.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::access::{self, Right};
use super::facts::{
    Facts, Looked, Names, Proxied, Replica, Target, component_of, server_name, webhook_of,
};
use super::rules::KEY;
use super::trial::{self, Plan, Trial};
use super::workloads::Pod;
use crate::http::client::{CallError, call};
use crate::rules;

/// Questions about rights that are asked at once: few enough for any API server's fairness.
const QUESTIONS_AT_ONCE: usize = 8;
/// Most Pods that are asked for their own words.
const REPLICAS_ASKED: usize = 10;
/// Port of the probes if the Pod names none `metrics`.
const PROBE_PORT: i32 = 8080;
/// What the chart calls things for the release `pullpass`.
const DEFAULT_NAME: &str = "pullpass";
/// Label of everything the chart makes.
const NAME_IS_PULLPASS: &str = "app.kubernetes.io/name=pullpass";

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Namespace of the installation; `None`: that of the configuration's Service.
    pub namespace: Option<String>,
    /// Helm release; `None`: any.
    pub release: Option<String>,
    /// Name of the MutatingWebhookConfiguration; `None`: found by label.
    pub configuration: Option<String>,
    /// Namespace whose Pods are asked about, and in which one is tried.
    pub check_namespace: String,
    /// Image of the trial Pod; `None`: made up from the rules.
    pub image: Option<String>,
    /// Whether addresses of Services can be called from here.
    pub inside: bool,
}

/// The API server gave no usable answer to the first question.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask the API server: {0}")]
pub struct UnreachableError(String);

/// Looks at everything; `progress` is told what comes next.
///
/// # Errors
/// [`UnreachableError`] if not even the version can be read.
pub async fn fetch(
    client: Client,
    fallback_namespace: &str,
    asked: &Asked,
    progress: &dyn Fn(&str),
) -> Result<Facts, UnreachableError> {
    progress("version");
    let version = client.apiserver_version().await;
    let version = version.map_err(|error| UnreachableError(words(error)))?;
    let ask = Ask { client, asked };
    progress("configuration");
    let configurations = ask.configurations().await;
    let mut names = ask.names(&configurations, fallback_namespace);
    progress("replicas");
    let deployments = ask.labelled(&names).await;
    if let Looked::Seen(deployments) = &deployments {
        names.read_deployments(deployments);
    }
    let pods = ask.labelled::<Pod>(&names).await;
    let replicas = ask.replicas(&names, &pods).await;
    let budgets = ask.labelled(&names).await;
    progress("certificate");
    let chain = ask.chain(&names).await;
    let webhook = configurations
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
    let rules = ask.rules(&names).await;
    progress("access");
    let access = ask.access(&names, target.as_ref()).await;
    progress("admission");
    let namespace = ask.one::<Namespace>(None, &asked.check_namespace).await;
    let trial = ask.trial(&rules, &namespace).await;
    Ok(Facts {
        version: (number(&version.major), number(&version.minor)),
        names,
        configurations,
        service,
        slices,
        proxied,
        direct,
        chain,
        trial,
        rules,
        deployments,
        pods,
        replicas,
        budgets,
        access,
        namespace: (asked.check_namespace.clone(), namespace),
    })
}

struct Ask<'a> {
    client: Client,
    asked: &'a Asked,
}

impl Ask<'_> {
    /// Those of the release that hold our webhook: by name, or found by label.
    async fn configurations(&self) -> Looked<Vec<MutatingWebhookConfiguration>> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let name = self.asked.configuration.as_deref();
        let found = match name {
            Some(name) => looked(api.get(name).await).map(|one| vec![one]),
            None => {
                let listed = api.list(&self.labels(self.asked.release.as_deref())).await;
                match looked(listed.map(|list| list.items)) {
                    // A role may be limited to the one name.
                    Looked::Denied(said) => {
                        let name = self.asked.release.as_deref().unwrap_or(DEFAULT_NAME);
                        let one = api.get(name).await.map(|one| vec![one]);
                        one.map_or(Looked::Denied(said), Looked::Seen)
                    }
                    other => other,
                }
            }
        };
        found.map(|mut all| {
            all.retain(|configuration| webhook_of(configuration).is_some());
            all
        })
    }

    /// What things are called, as far as the configuration and the arguments say.
    fn names(
        &self,
        configurations: &Looked<Vec<MutatingWebhookConfiguration>>,
        fallback: &str,
    ) -> Names {
        let configuration = configurations.seen().and_then(|all| all.first());
        let target = configuration.and_then(webhook_of).map(Target::of);
        let (namespace, service) = match target {
            Some(Target::Service {
                namespace, name, ..
            }) => (Some(namespace), Some(name)),
            _ => (None, None),
        };
        let namespace = self.asked.namespace.clone().or(namespace);
        let named = configuration.map(|one| one.name_any());
        let full = named.or_else(|| self.asked.configuration.clone());
        let full = full.or_else(|| self.asked.release.clone());
        let full = full.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let mut names = Names::of_chart(namespace.as_deref().unwrap_or(fallback), &full);
        let instance = configuration.and_then(|object| {
            let labels = object.metadata.labels.as_ref()?;
            labels.get("app.kubernetes.io/instance").cloned()
        });
        names.release = instance
            .or_else(|| self.asked.release.clone())
            .unwrap_or(full);
        names.service = service.unwrap_or(names.service);
        names
    }

    fn labels(&self, release: Option<&str>) -> ListParams {
        let instance = release.map(|name| format!(",app.kubernetes.io/instance={name}"));
        ListParams::default().labels(&format!(
            "{NAME_IS_PULLPASS}{}",
            instance.unwrap_or_default()
        ))
    }

    /// Objects of the release in its namespace.
    async fn labelled<K>(&self, names: &Names) -> Looked<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &names.namespace);
        let listed = api.list(&self.labels(Some(&names.release))).await;
        looked(listed.map(|list| list.items))
    }

    async fn one<K>(&self, namespace: Option<&str>, name: &str) -> Looked<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let mut path = K::url_path(&(), namespace);
        path.push('/');
        path.push_str(name);
        let request = http::Request::get(path).body(Vec::new());
        match request {
            Ok(request) => looked(self.client.request(request).await),
            Err(error) => Looked::Failed(error.to_string()),
        }
    }

    /// The certificates of the TLS Secret; its key is dropped here.
    async fn chain(&self, names: &Names) -> Looked<Vec<u8>> {
        let secret: Looked<Secret> = self.one(Some(&names.namespace), &names.tls_secret).await;
        secret.map(|secret| {
            let data = secret.data.unwrap_or_default();
            let chain = data.into_iter().find(|(key, _)| key == "tls.crt");
            chain.map(|(_, bytes)| bytes.0).unwrap_or_default()
        })
    }

    async fn rules(&self, names: &Names) -> Looked<Option<String>> {
        let object: Looked<ConfigMap> = self.one(Some(&names.namespace), &names.rules).await;
        object.map(|object| object.data.unwrap_or_default().remove(KEY))
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
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace);
        let of_service = format!("kubernetes.io/service-name={name}");
        let slices = slices
            .list(&ListParams::default().labels(&of_service))
            .await;
        let service = self.one(Some(namespace), name).await;
        (service, looked(slices.map(|list| list.items)))
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
        Some(match self.get(&path).await {
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
            Err(error) => Looked::Failed(words(error)),
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
                ready: self.text(&format!("{proxy}/readyz")).await,
                metrics: match role {
                    "webhook" => self.text(&format!("{proxy}/metrics")).await,
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

    async fn may(&self, right: &Right, namespace: &str) -> Looked<bool> {
        let account = &right.account;
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
                    resource: Some(right.resource.to_owned()),
                    name: right.name.clone(),
                    namespace: right.namespace.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = looked(api.create(&PostParams::default(), &review).await);
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
        let before = self.text("/metrics").await;
        let created = self.dry_run(&plan).await;
        let after = self.text("/metrics").await;
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
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
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

    /// The text behind a path that is no API object.
    async fn text(&self, path: &str) -> Looked<String> {
        match self.get(path).await {
            Ok(Answer {
                status_object: None,
                text,
                ..
            }) => Looked::Seen(text),
            Ok(Answer { status: 404, .. }) => Looked::Absent,
            Ok(Answer {
                status: 401 | 403,
                status_object: Some(said),
                ..
            }) => Looked::Denied(said),
            Ok(Answer {
                status_object: Some(said),
                ..
            }) => Looked::Failed(said),
            Err(error) => Looked::Failed(words(error)),
        }
    }

    async fn get(&self, path: &str) -> kube::Result<Answer> {
        let request = http::Request::get(path).body(kube::client::Body::empty());
        let response = self
            .client
            .send(request.map_err(kube::Error::HttpError)?)
            .await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        let object = serde_json::from_slice::<StatusObject>(&bytes).ok();
        let object = object.filter(|object| object.kind == "Status");
        Ok(Answer {
            status,
            status_object: object.map(|object| object.message),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }
}

/// An answer through, or of, the API server.
struct Answer {
    status: u16,
    /// The message, if the API server itself answered with a Status.
    status_object: Option<String>,
    text: String,
}

/// What the API server says where it has no object to show.
#[derive(Deserialize)]
struct StatusObject {
    kind: String,
    #[serde(default)]
    message: String,
}

fn probe_port(pod: &Pod) -> i32 {
    let containers = pod.spec.containers.iter();
    let mut ports = containers.flat_map(|container| &container.ports);
    let metrics = ports.find(|port| port.name.as_deref() == Some("metrics"));
    metrics.map_or(PROBE_PORT, |port| port.container_port)
}

fn looked<T>(result: kube::Result<T>) -> Looked<T> {
    match result {
        Ok(object) => Looked::Seen(object),
        Err(kube::Error::Api(status)) => match status.code {
            404 => Looked::Absent,
            401 | 403 => Looked::Denied(status.message),
            _ => Looked::Failed(status.message),
        },
        Err(error) => Looked::Failed(error.to_string()),
    }
}

/// The API server's own words where there are any.
fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    }
}

/// `36` of `36+`, as some clouds write it.
fn number(text: &str) -> u32 {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse().unwrap_or(0)
}
