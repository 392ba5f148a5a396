//! The images of a Pod that is there, and what the kubelet says of each. Pure.

use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;
use crate::image::ImageRef;

/// Kinds of containers: list in the `spec`, list in the `status`.
const CONTAINERS: [(&str, &str); 3] = [
    ("initContainers", "initContainerStatuses"),
    ("containers", "containerStatuses"),
    (EPHEMERAL, "ephemeralContainerStatuses"),
];
const EPHEMERAL: &str = "ephemeralContainers";

/// What the kubelet calls a container whose image is not there (`pkg/kubelet/images/types.go`,
/// `cri-api/pkg/errors`).
const NO_IMAGE: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// An Event about the Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// `Failed`, `BackOff`, …
    pub reason: String,
    /// The kubelet's words.
    pub message: String,
    /// When it was last seen, RFC 3339.
    pub at: String,
}

/// One image of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodImage {
    /// As written.
    pub image: String,
    /// The list of the `spec`.
    pub place: &'static str,
    /// Name of the container or volume.
    pub name: String,
    /// Whether it is there.
    pub state: ImageState,
    /// The kubelet's reason, if it is not.
    pub reason: Option<String>,
    /// The kubelet's words, if it has any.
    pub message: Option<String>,
}

/// Whether an image is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// A container of it was made.
    Pulled,
    /// The kubelet has not come to it, or says nothing of it.
    Waiting,
    /// It could not be had.
    Failing,
}

impl PodImage {
    /// What the words mean; `None` unless the image is failing.
    pub fn failure(&self) -> Option<Failure> {
        let message = self.message.as_deref().unwrap_or_default();
        let reason = self.reason.as_deref()?;
        (self.state == ImageState::Failing).then(|| Failure::of(reason, message))
    }
}

/// Every image of a Pod. `events` help where a status says only that it waits: kubelets before 1.31.
pub fn images(pod: &Value, events: &[PodEvent]) -> Vec<PodImage> {
    let mut images: Vec<PodImage> = CONTAINERS
        .iter()
        .flat_map(|(place, statuses)| {
            let each = list(pod, "spec", place);
            each.filter_map(|container| of_container(pod, container, place, statuses))
        })
        .collect();
    let mut volumes: Vec<PodImage> = list(pod, "spec", "volumes").filter_map(of_volume).collect();
    for container in &mut images {
        move_to_volume(container, &mut volumes);
    }
    images.extend(volumes);
    for image in &mut images {
        image.complete(events);
    }
    images
}

/// The images that could not be had and for which a login may be what is missing. It may be if nothing is said, as by
/// kubelets before 1.31. Those of ephemeral containers are none: a Pod that is made anew has no such containers.
pub fn failing(pod: &Value) -> Vec<String> {
    let may_be_login = |failure: Failure| failure.is_about_login() || failure == Failure::Other;
    let images = images(pod, &[]).into_iter();
    let lasting = images.filter(|image| image.place != EPHEMERAL);
    let failing = lasting.filter(|image| image.failure().is_some_and(may_be_login));
    failing.map(|image| image.image).collect()
}

/// What the kubelet says of each container, of whatever kind.
pub(super) fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = CONTAINERS.iter();
    lists.flat_map(|(_, statuses)| list(pod, "status", statuses))
}

fn list<'a>(pod: &'a Value, part: &str, name: &str) -> impl Iterator<Item = &'a Value> {
    let list = pod.get(part).and_then(|part| part.get(name));
    list.and_then(Value::as_array).into_iter().flatten()
}

fn text(object: &Value, pointer: &str) -> Option<String> {
    object.pointer(pointer)?.as_str().map(str::to_owned)
}

fn of_container(
    pod: &Value,
    container: &Value,
    place: &'static str,
    statuses: &str,
) -> Option<PodImage> {
    let name = text(container, "/name").unwrap_or_default();
    let mut all = list(pod, "status", statuses);
    let status = all.find(|status| status.get("name").and_then(Value::as_str) == Some(&name));
    let waiting = |field: &str| text(status?, &format!("/state/waiting/{field}"));
    let reason = waiting("reason").filter(|reason| is_of_image(reason));
    let has_image = status.is_some_and(|status| {
        let id = text(status, "/imageID").is_some_and(|id| !id.is_empty());
        id || status.pointer("/state/running").is_some()
    });
    Some(PodImage {
        image: text(container, "/image")?,
        place,
        name,
        state: match (&reason, has_image) {
            (Some(_), _) => ImageState::Failing,
            (None, true) => ImageState::Pulled,
            (None, false) => ImageState::Waiting,
        },
        message: reason.as_ref().and_then(|_| waiting("message")),
        reason,
    })
}

/// A pull secret that does not decode has no reason of its own: the decoder's words stand there.
fn is_of_image(reason: &str) -> bool {
    NO_IMAGE.contains(&reason) || Failure::of("", reason) == Failure::UndecodableSecret
}

fn of_volume(volume: &Value) -> Option<PodImage> {
    Some(PodImage {
        image: text(volume, "/image/reference")?,
        place: "volumes",
        name: text(volume, "/name").unwrap_or_default(),
        state: ImageState::Waiting,
        reason: None,
        message: None,
    })
}

/// An image volume has no status: each container of the Pod waits with its words, in which only the
/// reference tells that they are about the volume.
fn move_to_volume(container: &mut PodImage, volumes: &mut [PodImage]) {
    let Some(message) = &container.message else {
        return;
    };
    if is_about(message, &container.image) {
        return;
    }
    let mut volumes = volumes.iter_mut();
    if let Some(volume) = volumes.find(|volume| is_about(message, &volume.image)) {
        volume.state = ImageState::Failing;
        volume.reason = container.reason.take();
        volume.message = container.message.take();
        container.state = ImageState::Waiting;
    }
}

/// Whether words name an image, as written or as the runtime reads it.
fn is_about(message: &str, image: &str) -> bool {
    let normalized = ImageRef::parse(image).map(|image| image.to_string());
    message.contains(image) || normalized.is_ok_and(|name| message.contains(&name))
}

impl PodImage {
    /// Takes the last failed pull's words where the status has none, or only that it waits.
    fn complete(&mut self, events: &[PodEvent]) {
        let is_known = |message: &str| {
            Failure::of(self.reason.as_deref().unwrap_or_default(), message) != Failure::Other
        };
        let has_words = self.message.as_deref().is_some_and(is_known);
        if self.state != ImageState::Failing || has_words {
            return;
        }
        let quoted = format!("\"{}\"", self.image);
        let failed = events.iter().filter(|event| {
            event.reason == "Failed"
                && event.message.starts_with("Failed to pull image")
                && event.message.contains(&quoted)
        });
        if let Some(last) = failed.max_by(|a, b| a.at.cmp(&b.at)) {
            self.message = Some(last.message.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const APP: &str = "127.0.0.2:5000/team/app:v1";

    fn waiting(name: &str, reason: &str, message: &str) -> Value {
        json!({"name": name, "imageID": "",
            "state": {"waiting": {"reason": reason, "message": message}}})
    }

    fn pod(statuses: &Value) -> Value {
        json!({
            "spec": {
                "containers": [{"name": "app", "image": APP}],
                "volumes": [{"name": "data", "image": {"reference": "docker.io/acme/data:2"}}, {"name": "tmp"}],
            },
            "status": {"containerStatuses": [statuses]},
        })
    }

    fn check(statuses: &Value, events: &[PodEvent], expected: [(ImageState, Option<Failure>); 2]) {
        let found = images(&pod(statuses), events);
        let found: Vec<_> = found
            .iter()
            .map(|image| (image.state, image.failure()))
            .collect();
        assert_eq!(found, expected);
    }

    use ImageState::{Failing, Pulled, Waiting};

    #[test]
    fn each_state_is_told() {
        let nothing = (Waiting, None);
        check(
            &waiting("app", "ContainerCreating", ""),
            &[],
            [nothing, nothing],
        );
        let running = json!({"name": "app", "imageID": "sha256:1", "state": {"running": {}}});
        check(&running, &[], [(Pulled, None), nothing]);
        let refused = waiting("app", "ErrImagePull", "401 Unauthorized");
        check(
            &refused,
            &[],
            [(Failing, Some(Failure::Unauthorized)), nothing],
        );
        check(&json!({}), &[], [nothing, nothing]);
        let words = "illegal base64 data at input byte 2";
        let undecodable = (Failing, Some(Failure::UndecodableSecret));
        check(&waiting("app", words, words), &[], [undecodable, nothing]);
    }

    #[test]
    fn an_image_volume_fails_in_the_name_of_a_container() {
        let message = "Back-off pulling image \"docker.io/acme/data:2\": ErrImagePull: \
                       failed to resolve reference \"docker.io/acme/data:2\": not found";
        let status = waiting("app", "ImagePullBackOff", message);
        let expected = [(Waiting, None), (Failing, Some(Failure::NotFound))];
        check(&status, &[], expected);
        let found = failing(&pod(&status));
        assert_eq!(found, ["docker.io/acme/data:2"]);
    }

    #[test]
    fn an_image_to_look_into_a_pod_with_is_none_that_it_waits_for() {
        let mut pod = pod(&waiting("app", "ContainerCreating", ""));
        pod["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": APP}]);
        let status = waiting("debug", "ErrImagePull", "401 Unauthorized");
        pod["status"]["ephemeralContainerStatuses"] = json!([status]);
        let refused = images(&pod, &[])
            .into_iter()
            .find_map(|image| image.failure());
        assert_eq!(refused, Some(Failure::Unauthorized));
        assert_eq!(failing(&pod), [""; 0]);
    }

    #[test]
    fn the_last_event_says_what_an_old_kubelet_does_not() {
        let event = |at: &str, words: &str| PodEvent {
            reason: "Failed".to_owned(),
            message: format!("Failed to pull image \"{APP}\": {words}"),
            at: at.to_owned(),
        };
        let events = [
            event("2026-01-02T00:00:00Z", "429 Too Many Requests"),
            event("2026-01-01T00:00:00Z", "401 Unauthorized"),
        ];
        let words = format!("Back-off pulling image \"{APP}\"");
        let status = waiting("app", "ImagePullBackOff", &words);
        let expected = [(Failing, Some(Failure::RateLimited)), (Waiting, None)];
        check(&status, &events, expected);
        let said = waiting("app", "ErrImagePull", "x509: unknown");
        let expected = [
            (Failing, Some(Failure::UntrustedCertificate)),
            (Waiting, None),
        ];
        check(&said, &events, expected);
    }
}
