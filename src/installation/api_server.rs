//! Questions to the API server, with the caller's rights.

use std::fmt::Debug;

use http_body_util::BodyExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Preconditions};
use kube::core::Request;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use super::looked::{UNREADABLE, words};
use super::workloads::Deployment;
use super::{Looked, Names, Target, configuration_of, delivers, webhook_of};

/// What the chart calls things for the release `pullpass`.
const DEFAULT_NAME: &str = "pullpass";
/// Label of everything the chart makes.
const NAME_IS_PULLPASS: &str = "app.kubernetes.io/name=pullpass";
/// Label of the controller.
const CONTROLLER: &str = "app.kubernetes.io/component=controller";
/// Objects in one answer of a long list, as kubectl asks for them: a thousand Pods are 10 MB.
const PAGE_OBJECTS: u32 = 500;

/// Which installation is meant.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Its namespace; `None`: that of the configuration's Service.
    pub namespace: Option<String>,
    /// Helm release; `None`: any.
    pub release: Option<String>,
    /// Name of the MutatingWebhookConfiguration; `None`: found by label.
    pub configuration: Option<String>,
}

/// The API server gave no usable answer to the first question.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask the API server: {0}")]
pub struct UnreachableError(String);

/// Asks the API server.
pub struct ApiServer {
    client: Client,
    version: (u32, u32),
}

/// The installation, as far as it was found.
#[derive(Debug)]
pub struct Found {
    /// What its objects are called; guessed where nothing says it.
    pub names: Names,
    /// Every configuration of the release that holds the webhook.
    pub configurations: Looked<Vec<MutatingWebhookConfiguration>>,
    /// Of both roles.
    pub deployments: Looked<Vec<Deployment>>,
}

/// An answer through, or of, the API server.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The message, if the API server itself answered with a Status.
    pub status_object: Option<String>,
    /// The body.
    pub text: String,
}

/// What the API server says where it has no object to show.
#[derive(Deserialize)]
struct StatusObject {
    kind: String,
    #[serde(default)]
    message: String,
}

/// What became of something that was to be taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, by us or by another.
    Done,
    /// It is not as it was when it was looked at.
    Changed,
    /// The API server lets nobody do it now, for the sake of a PodDisruptionBudget; its words.
    Refused(String),
    /// It is still there; the API server's words.
    Failed(String),
}

/// One answer of a long list.
#[derive(Deserialize)]
struct Page<'t> {
    metadata: PageMetadata,
    /// `null`, if there are none of which the metadata was asked for.
    #[serde(borrow)]
    items: Option<Vec<&'t RawValue>>,
}

#[derive(Deserialize)]
struct PageMetadata {
    /// Asks for the next one; absent or empty on the last.
    #[serde(rename = "continue")]
    token: Option<String>,
}

impl Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Asks for the version, which everybody may.
    ///
    /// # Errors
    /// [`UnreachableError`] if it cannot be read.
    pub async fn new(client: Client) -> Result<Self, UnreachableError> {
        let version = client.apiserver_version().await;
        let version = version.map_err(|error| UnreachableError(words(error)))?;
        Ok(Self {
            client,
            version: (number(&version.major), number(&version.minor)),
        })
    }

    /// Major and minor version of Kubernetes.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// For what is asked in one place only.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Finds the installation; where nothing says its namespace, it is `fallback`.
    pub async fn find(&self, chosen: &Chosen, fallback: &str) -> Found {
        let configurations = self.configurations(chosen).await;
        let mut names = names(chosen, &configurations, fallback);
        let deployments = self.labelled(&names).await;
        if let Looked::Seen(deployments) = &deployments {
            names.read_deployments(deployments);
        }
        Found {
            names,
            configurations,
            deployments,
        }
    }

    /// Those of the release that hold our webhook: by name, or found by label. One whose Service is in
    /// another namespace than the chosen one is another installation's.
    async fn configurations(&self, chosen: &Chosen) -> Looked<Vec<MutatingWebhookConfiguration>> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client());
        let found = match chosen.configuration.as_deref() {
            Some(name) => Looked::of(api.get(name).await).map(|one| vec![one]),
            None => {
                let listed = api.list(&labels(chosen.release.as_deref())).await;
                match Looked::of(listed.map(|list| list.items)) {
                    // A role may be limited to the one name.
                    Looked::Denied(said) => {
                        let name = chosen.release.as_deref().unwrap_or(DEFAULT_NAME);
                        let one = api.get(name).await.map(|one| vec![one]);
                        one.map_or(Looked::Denied(said), Looked::Seen)
                    }
                    other => other,
                }
            }
        };
        let is_meant =
            |object: &MutatingWebhookConfiguration| match webhook_of(object).map(Target::of) {
                Some(Target::Service { namespace, .. }) if chosen.configuration.is_none() => chosen
                    .namespace
                    .as_ref()
                    .is_none_or(|chosen| *chosen == namespace),
                target => target.is_some(),
            };
        found.map(|mut all| {
            all.retain(is_meant);
            all
        })
    }

    /// Objects of the release in its namespace.
    pub async fn labelled<K>(&self, names: &Names) -> Looked<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client(), &names.namespace);
        let listed = api.list(&labels(Some(&names.release))).await;
        Looked::of(listed.map(|list| list.items))
    }

    /// The controllers that deliver for the installation, whatever release they are of: which instance
    /// copies are of, says the configuration that a controller keeps.
    pub async fn controllers(&self, names: &Names) -> Looked<Vec<Deployment>> {
        let api: Api<Deployment> = Api::namespaced(self.client(), &names.namespace);
        let params = ListParams::default().labels(&format!("{NAME_IS_PULLPASS},{CONTROLLER}"));
        let listed = Looked::of(api.list(&params).await);
        listed.map(|list| {
            let all = list.items.into_iter();
            all.filter(delivers)
                .filter(|one| configuration_of(one).is_none_or(|of| of == names.configuration))
                .collect()
        })
    }

    /// One object by its name.
    pub async fn one<K>(&self, namespace: Option<&str>, name: &str) -> Looked<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let request = Request::new(K::url_path(&(), namespace)).get(name, &Default::default());
        match request {
            Ok(request) => Looked::of(self.client.request(request).await),
            Err(error) => Looked::Failed(error.to_string()),
        }
    }

    /// One object by its path, of which `T` may read as little as it wants.
    pub async fn object<T: DeserializeOwned>(&self, path: &str) -> Looked<T> {
        let read = |text: String| match serde_json::from_str(&text) {
            Ok(object) => Looked::Seen(object),
            Err(_) => Looked::Failed(UNREADABLE.to_owned()),
        };
        self.text(path).await.and_then(read)
    }

    /// One text of a ConfigMap in the installation's namespace; `None` without this key.
    pub async fn text_of(&self, names: &Names, object: &str, key: &str) -> Looked<Option<String>> {
        let object: Looked<ConfigMap> = self.one(Some(&names.namespace), object).await;
        object.map(|object| object.data.unwrap_or_default().remove(key))
    }

    /// Every object of a collection that `params` choose, page by page, `PAGE_OBJECTS` in one unless they say
    /// otherwise; `each` is told of each, and may read as little of it as it wants.
    pub async fn each<T: DeserializeOwned>(
        &self,
        path: &str,
        params: &ListParams,
        reading: Reading,
        mut each: impl FnMut(T),
    ) -> Looked<()> {
        let mut params = params.clone();
        params.limit.get_or_insert(PAGE_OBJECTS);
        loop {
            let text = match self.page(path, &params, reading).await {
                Looked::Seen(text) => text,
                other => return other.map(drop),
            };
            let Ok(page) = serde_json::from_str::<Page<'_>>(&text) else {
                return Looked::Failed(UNREADABLE.to_owned());
            };
            // One by one: read, an object may take ten times its text.
            for item in page.items.into_iter().flatten() {
                match serde_json::from_str(item.get()) {
                    Ok(item) => each(item),
                    Err(_) => return Looked::Failed(UNREADABLE.to_owned()),
                }
            }
            match page.metadata.token.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Looked::Seen(()),
            }
        }
    }

    /// One answer of a long list, JSON. Apart from what is read of it, so that there is one such function in
    /// the program and not one for each kind of object.
    async fn page(&self, path: &str, params: &ListParams, reading: Reading) -> Looked<String> {
        let request = Request::new(path);
        let request = match reading {
            Reading::Whole => request.list(params),
            Reading::Metadata => request.list_metadata(params),
        };
        match request {
            Ok(request) => Looked::of(self.client.request_text(request).await),
            Err(error) => Looked::Failed(error.to_string()),
        }
    }

    /// Deletes this very version of an object, and no other.
    pub async fn delete(&self, collection: &str, object: &ObjectMeta) -> Removal {
        let exactly = Preconditions {
            uid: object.uid.clone(),
            resource_version: object.resource_version.clone(),
        };
        let params = DeleteParams::default().preconditions(exactly);
        let name = object.name.as_deref().unwrap_or_default();
        let request = match Request::new(collection).delete(name, &params) {
            Ok(request) => request,
            Err(error) => return Removal::Failed(error.to_string()),
        };
        match self.client.request::<IgnoredAny>(request).await {
            Ok(_) => Removal::Done,
            Err(kube::Error::Api(status)) if status.code == 404 => Removal::Done,
            Err(kube::Error::Api(status)) if status.code == 409 => Removal::Changed,
            Err(error) => Removal::Failed(words(error)),
        }
    }

    /// Evicts this very version of a Pod, and no other, if its PodDisruptionBudgets allow it.
    pub async fn evict(&self, namespace: &str, pod: &str, exactly: &Preconditions) -> Removal {
        let eviction = serde_json::json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": {"preconditions": exactly},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(eviction.to_string().into_bytes());
        let request = match request {
            Ok(request) => request,
            Err(error) => return Removal::Failed(error.to_string()),
        };
        match self.client.request::<IgnoredAny>(request).await {
            Ok(_) => Removal::Done,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Removal::Changed,
            Err(kube::Error::Api(status)) if status.code == 429 => Removal::Refused(status.message),
            Err(error) => Removal::Failed(words(error)),
        }
    }

    /// Changes an object by a JSON patch that tests what was looked at.
    pub async fn patch(&self, path: &str, patch: &serde_json::Value) -> Removal {
        let request = http::Request::patch(path)
            .header("content-type", "application/json-patch+json")
            .body(patch.to_string().into_bytes());
        let request = match request {
            Ok(request) => request,
            Err(error) => return Removal::Failed(error.to_string()),
        };
        match self.client.request::<IgnoredAny>(request).await {
            Ok(_) => Removal::Done,
            Err(kube::Error::Api(status)) if status.code == 404 => Removal::Done,
            // A failed test is invalid, and says nothing of the kind.
            Err(kube::Error::Api(status)) if matches!(status.code, 409 | 422) => Removal::Changed,
            Err(error) => Removal::Failed(words(error)),
        }
    }

    /// The text behind a path.
    pub async fn text(&self, path: &str) -> Looked<String> {
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
            Err(error) => Looked::Failed(error),
        }
    }

    /// Whatever a path answers.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        self.try_get(path).await.map_err(words)
    }

    async fn try_get(&self, path: &str) -> kube::Result<Answer> {
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

/// How much of each object of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All of it.
    Whole,
    /// Its metadata; of a Secret, no byte of what it holds leaves the API server.
    Metadata,
}

/// What things are called, as far as the configuration says.
fn names(
    chosen: &Chosen,
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
    let namespace = chosen.namespace.clone().or(namespace);
    let named = configuration.map(|one| one.name_any());
    let full = named.or_else(|| chosen.configuration.clone());
    let full = full.or_else(|| chosen.release.clone());
    let full = full.unwrap_or_else(|| DEFAULT_NAME.to_owned());
    let mut names = Names::of_chart(namespace.as_deref().unwrap_or(fallback), &full);
    let instance = configuration.and_then(|object| {
        let labels = object.metadata.labels.as_ref()?;
        labels.get("app.kubernetes.io/instance").cloned()
    });
    names.release = instance.or_else(|| chosen.release.clone()).unwrap_or(full);
    names.service = service.unwrap_or(names.service);
    names
}

fn labels(release: Option<&str>) -> ListParams {
    let instance = release.map(|name| format!(",app.kubernetes.io/instance={name}"));
    ListParams::default().labels(&format!(
        "{NAME_IS_PULLPASS}{}",
        instance.unwrap_or_default()
    ))
}

/// `36` of `36+`, as some clouds write it.
fn number(text: &str) -> u32 {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(page: &str, expected: usize) {
        let page: Page<'_> = serde_json::from_str(page).unwrap();
        assert_eq!(page.items.into_iter().flatten().count(), expected);
    }

    /// As API servers write them: of whole objects, and of their metadata.
    #[test]
    fn an_empty_page_may_have_no_list() {
        check(r#"{"metadata": {}, "items": [{}, {}]}"#, 2);
        check(r#"{"metadata": {}, "items": []}"#, 0);
        check(r#"{"metadata": {}, "items": null}"#, 0);
    }
}
