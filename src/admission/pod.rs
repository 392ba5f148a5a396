//! A Pod as the decision sees it: a view into the request's bytes.
//!
//! Only what the decision reads is kept; a full `Pod` costs ten times the time and hundreds of
//! allocations. This module must not decide anything.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::rules::selector::Labels;

use super::json::{self, Array, NotJson, Read, Reader, utf8};

/// Created by the kubelet for a static Pod; a patched one is refused by the API server
/// (kubernetes `plugin/pkg/admission/serviceaccount`, "a mirror pod may not reference secrets").
pub const MIRROR_POD_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Opts one Pod out when its value is `false`.
pub const INJECT_ANNOTATION: &str = "pullpass.dev/inject";
/// What the API server fills in for a Pod without `serviceAccountName`.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// Where in the Pod an image is named, in the order in which images are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `spec.initContainers[].image`, sidecars included.
    InitContainer,
    /// `spec.containers[].image`
    Container,
    /// `spec.ephemeralContainers[].image`
    EphemeralContainer,
    /// `spec.volumes[].image.reference` (KEP-4639)
    Volume,
}

impl Place {
    /// The list in the Pod's `spec`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InitContainer => "initContainers",
            Self::Container => "containers",
            Self::EphemeralContainer => "ephemeralContainers",
            Self::Volume => "volumes",
        }
    }
}

/// Images, in the order of [`Place`] and within it as written. Inline up to 8.
pub type Images<'a> = SmallVec<[(Place, Cow<'a, str>); 8]>;

/// The list `spec.imagePullSecrets`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PullSecretList<'a> {
    /// Absent, `null` or empty: one `add` of the whole list.
    #[default]
    Empty,
    /// Names in order, with the empty ones: each new name is appended.
    Names(SmallVec<[Cow<'a, str>; 4]>),
    /// No list at all: nothing can be added without destroying what is there.
    WrongType,
}

impl PullSecretList<'_> {
    /// Whether `name` is in the list.
    pub fn contains(&self, name: &str) -> bool {
        matches!(self, Self::Names(names) if names.iter().any(|n| n == name))
    }
}

/// What the decision reads of a Pod.
#[derive(Debug, Clone, Default)]
pub struct PodView<'a> {
    /// Annotation [`MIRROR_POD_ANNOTATION`] is there, whatever its value.
    pub is_mirror: bool,
    /// Annotation [`INJECT_ANNOTATION`] is `false`.
    pub opted_out: bool,
    /// Labels, as written.
    pub labels: PodLabels<'a>,
    /// `spec` is an object: only then can a patch be applied to it.
    pub has_spec: bool,
    /// `spec.serviceAccountName`, or the deprecated `spec.serviceAccount`; `None`: the default one.
    pub service_account: Option<Cow<'a, str>>,
    /// `spec.imagePullSecrets`.
    pub pull_secrets: PullSecretList<'a>,
    /// Every image the Pod names; empty ones are left out, validation refuses them later.
    pub images: Images<'a>,
}

/// Labels of a Pod. Inline up to 8.
#[derive(Debug, Clone, Default)]
pub struct PodLabels<'a>(SmallVec<[(Cow<'a, str>, Cow<'a, str>); 8]>);

impl Labels for PodLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, value)| &**value)
    }
}

impl<'a> PodView<'a> {
    /// Reads a Pod's JSON, as it stands in `request.object` of an AdmissionReview.
    ///
    /// # Errors
    /// [`NotJson`]; a field of the wrong type counts as absent.
    pub fn parse(json: &'a [u8]) -> Result<Self, NotJson> {
        json::read(json, pod)
    }

    /// The name of the Pod's ServiceAccount.
    pub fn service_account(&self) -> &str {
        self.service_account
            .as_deref()
            .unwrap_or(DEFAULT_SERVICE_ACCOUNT)
    }
}

/// Reads a Pod; from anything but an object, one without a spec.
pub(super) fn pod<'a>(json: &mut Reader<'a>) -> Read<PodView<'a>> {
    let (mut metadata, mut spec) = (Metadata::default(), None);
    json.object(|key, json| {
        match &*key {
            b"metadata" => metadata = self::metadata(json)?,
            b"spec" => spec = self::spec(json)?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    let has_spec = spec.is_some();
    let spec = spec.unwrap_or_default();
    let mut images = Images::new();
    for (place, found) in [
        (Place::InitContainer, spec.init_containers),
        (Place::Container, spec.containers),
        (Place::EphemeralContainer, spec.ephemeral_containers),
        (Place::Volume, spec.volumes),
    ] {
        images.extend(found.into_iter().map(|image| (place, image)));
    }
    Ok(PodView {
        is_mirror: metadata.is_mirror,
        opted_out: metadata.opted_out,
        labels: metadata.labels,
        has_spec,
        service_account: spec.service_account_name.or(spec.service_account),
        pull_secrets: spec.pull_secrets,
        images,
    })
}

#[derive(Default)]
struct Metadata<'a> {
    is_mirror: bool,
    opted_out: bool,
    labels: PodLabels<'a>,
}

fn metadata<'a>(json: &mut Reader<'a>) -> Read<Metadata<'a>> {
    let mut metadata = Metadata::default();
    json.object(|key, json| {
        match &*key {
            b"annotations" => (metadata.is_mirror, metadata.opted_out) = annotations(json)?,
            b"labels" => metadata.labels = labels(json)?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    Ok(metadata)
}

/// Whether it is a mirror Pod, and whether it is opted out.
fn annotations(json: &mut Reader<'_>) -> Read<(bool, bool)> {
    let (mut is_mirror, mut opted_out) = (false, false);
    json.object(|key, json| {
        if *key == *MIRROR_POD_ANNOTATION.as_bytes() {
            json.skip()?;
            is_mirror = true;
        } else if *key == *INJECT_ANNOTATION.as_bytes() {
            opted_out = json.text()?.as_deref() == Some("false");
        } else {
            json.skip()?;
        }
        Ok(())
    })?;
    Ok((is_mirror, opted_out))
}

fn labels<'a>(json: &mut Reader<'a>) -> Read<PodLabels<'a>> {
    let mut labels = PodLabels::default();
    json.object(|key, json| {
        let value = json.text()?.unwrap_or_default();
        labels.0.push((utf8(key)?, value));
        Ok(())
    })?;
    Ok(labels)
}

/// `spec`. The four image lists stay apart until all are read: JSON may hold them in any order, and
/// a later duplicate replaces an earlier one.
#[derive(Default)]
struct Spec<'a> {
    init_containers: ImageList<'a>,
    containers: ImageList<'a>,
    ephemeral_containers: ImageList<'a>,
    volumes: ImageList<'a>,
    pull_secrets: PullSecretList<'a>,
    service_account_name: Option<Cow<'a, str>>,
    service_account: Option<Cow<'a, str>>,
}

type ImageList<'a> = SmallVec<[Cow<'a, str>; 4]>;

fn spec<'a>(json: &mut Reader<'a>) -> Read<Option<Spec<'a>>> {
    let mut spec = Spec::default();
    let is_object = json.object(|key, json| {
        match &*key {
            b"initContainers" => spec.init_containers = images(json, image)?,
            b"containers" => spec.containers = images(json, image)?,
            b"ephemeralContainers" => spec.ephemeral_containers = images(json, image)?,
            b"volumes" => spec.volumes = images(json, volume_image)?,
            b"imagePullSecrets" => spec.pull_secrets = pull_secrets(json)?,
            b"serviceAccountName" => spec.service_account_name = non_empty_text(json)?,
            b"serviceAccount" => spec.service_account = non_empty_text(json)?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    Ok(is_object.then_some(spec))
}

/// A name that counts as absent when it is empty, as in Go.
fn non_empty_text<'a>(json: &mut Reader<'a>) -> Read<Option<Cow<'a, str>>> {
    Ok(json.text()?.filter(|text| !text.is_empty()))
}

/// The images of a list, of which `image` reads one element.
fn images<'a>(
    json: &mut Reader<'a>,
    image: fn(&mut Reader<'a>) -> Read<Option<Cow<'a, str>>>,
) -> Read<ImageList<'a>> {
    let mut images = ImageList::new();
    json.array(|json| {
        images.extend(image(json)?.filter(|image| !image.is_empty()));
        Ok(())
    })?;
    Ok(images)
}

/// `image` of a container.
fn image<'a>(json: &mut Reader<'a>) -> Read<Option<Cow<'a, str>>> {
    text_field(json, b"image")
}

/// `image.reference` of a volume.
fn volume_image<'a>(json: &mut Reader<'a>) -> Read<Option<Cow<'a, str>>> {
    let mut reference = None;
    json.object(|key, json| {
        match &*key {
            b"image" => reference = text_field(json, b"reference")?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    Ok(reference)
}

/// `spec.imagePullSecrets`. An element without a name counts as an empty name, so that the list is not
/// taken for empty.
fn pull_secrets<'a>(json: &mut Reader<'a>) -> Read<PullSecretList<'a>> {
    let mut names = SmallVec::new();
    let array = json.array(|json| {
        names.push(text_field(json, b"name")?.unwrap_or_default());
        Ok(())
    })?;
    Ok(match array {
        Array::WrongType => PullSecretList::WrongType,
        Array::Present if !names.is_empty() => PullSecretList::Names(names),
        Array::Present | Array::Null => PullSecretList::Empty,
    })
}

/// One text of an object.
fn text_field<'a>(json: &mut Reader<'a>, name: &[u8]) -> Read<Option<Cow<'a, str>>> {
    let mut text = None;
    json.object(|key, json| {
        if *key == *name {
            text = json.text()?;
        } else {
            json.skip()?;
        }
        Ok(())
    })?;
    Ok(text)
}
