//! A Pod as the decision sees it: a view into the request's bytes.
//!
//! Only what the decision reads is kept; a full `Pod` costs ten times the time and hundreds of
//! allocations. This module must not decide anything.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess};
use smallvec::SmallVec;

use crate::rules::selector::Labels;

use super::lenient::{Array, Fields, Items, Object, Text, skip};

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
    /// Only where `json` is not JSON: a field of the wrong type counts as absent.
    pub fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The name of the Pod's ServiceAccount.
    pub fn service_account(&self) -> &str {
        self.service_account
            .as_deref()
            .unwrap_or(DEFAULT_SERVICE_ACCOUNT)
    }
}

impl<'de> Deserialize<'de> for PodView<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object(object) = Object::<PodFields<'de>>::deserialize(deserializer)?;
        let PodFields { metadata, spec } = object.unwrap_or_default();
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
        Ok(Self {
            is_mirror: metadata.annotations.is_mirror,
            opted_out: metadata.annotations.opted_out,
            labels: metadata.labels,
            has_spec,
            service_account: spec.service_account_name.or(spec.service_account),
            pull_secrets: spec.pull_secrets,
            images,
        })
    }
}

#[derive(Default)]
struct PodFields<'a> {
    metadata: MetadataFields<'a>,
    spec: Option<SpecFields<'a>>,
}

impl<'de> Fields<'de> for PodFields<'de> {
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        match &*key {
            "metadata" => self.metadata = map.next_value::<Object<_>>()?.0.unwrap_or_default(),
            "spec" => self.spec = map.next_value::<Object<_>>()?.0,
            _ => skip(map)?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct MetadataFields<'a> {
    annotations: AnnotationFields,
    labels: PodLabels<'a>,
}

impl<'de> Fields<'de> for MetadataFields<'de> {
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        match &*key {
            "annotations" => {
                self.annotations = map.next_value::<Object<_>>()?.0.unwrap_or_default();
            }
            "labels" => self.labels = map.next_value::<Object<_>>()?.0.unwrap_or_default(),
            _ => skip(map)?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct AnnotationFields {
    is_mirror: bool,
    opted_out: bool,
}

impl<'de> Fields<'de> for AnnotationFields {
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        match &*key {
            MIRROR_POD_ANNOTATION => {
                skip(map)?;
                self.is_mirror = true;
            }
            INJECT_ANNOTATION => {
                self.opted_out = map.next_value::<Text<'_>>()?.0.as_deref() == Some("false");
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for PodLabels<'de> {
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        let Text(value) = map.next_value()?;
        self.0.push((key, value.unwrap_or_default()));
        Ok(())
    }
}

/// `spec`. The four image lists stay apart until all are read: JSON may hold them in any order, and
/// a later duplicate replaces an earlier one.
#[derive(Default)]
struct SpecFields<'a> {
    init_containers: ImageList<'a>,
    containers: ImageList<'a>,
    ephemeral_containers: ImageList<'a>,
    volumes: ImageList<'a>,
    pull_secrets: PullSecretList<'a>,
    service_account_name: Option<Cow<'a, str>>,
    service_account: Option<Cow<'a, str>>,
}

type ImageList<'a> = SmallVec<[Cow<'a, str>; 4]>;

impl<'de> Fields<'de> for SpecFields<'de> {
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        match &*key {
            "initContainers" => self.init_containers = containers(map)?,
            "containers" => self.containers = containers(map)?,
            "ephemeralContainers" => self.ephemeral_containers = containers(map)?,
            "volumes" => self.volumes = volumes(map)?,
            "imagePullSecrets" => self.pull_secrets = pull_secrets(map)?,
            "serviceAccountName" => self.service_account_name = name(map)?,
            "serviceAccount" => self.service_account = name(map)?,
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// A name that counts as absent when it is empty, as in Go.
fn name<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Cow<'de, str>>, A::Error> {
    let Text(name) = map.next_value()?;
    Ok(name.filter(|name| !name.is_empty()))
}

fn containers<'de, A: MapAccess<'de>>(map: &mut A) -> Result<ImageList<'de>, A::Error> {
    Ok(match map.next_value()? {
        Array::Items(Containers(images)) => images,
        Array::Null | Array::WrongType => ImageList::new(),
    })
}

fn volumes<'de, A: MapAccess<'de>>(map: &mut A) -> Result<ImageList<'de>, A::Error> {
    Ok(match map.next_value()? {
        Array::Items(Volumes(images)) => images,
        Array::Null | Array::WrongType => ImageList::new(),
    })
}

fn pull_secrets<'de, A: MapAccess<'de>>(map: &mut A) -> Result<PullSecretList<'de>, A::Error> {
    Ok(match map.next_value()? {
        Array::Items(Names(names)) if !names.is_empty() => PullSecretList::Names(names),
        Array::Items(_) | Array::Null => PullSecretList::Empty,
        Array::WrongType => PullSecretList::WrongType,
    })
}

/// Elements of the container lists, of which only `image` is kept.
#[derive(Default)]
struct Containers<'a>(ImageList<'a>);

impl<'de> Items<'de> for Containers<'de> {
    fn item<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<Option<()>, A::Error> {
        let Some(Object(element)) = seq.next_element::<Object<Field<'de, Image>>>()? else {
            return Ok(None);
        };
        self.0.extend(element.and_then(Field::into_non_empty));
        Ok(Some(()))
    }
}

/// Elements of `volumes`, of which only `image.reference` is kept.
#[derive(Default)]
struct Volumes<'a>(ImageList<'a>);

impl<'de> Items<'de> for Volumes<'de> {
    fn item<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<Option<()>, A::Error> {
        let Some(Object(element)) = seq.next_element::<Object<VolumeFields<'de>>>()? else {
            return Ok(None);
        };
        self.0.extend(
            element
                .and_then(|volume| volume.image)
                .and_then(Field::into_non_empty),
        );
        Ok(Some(()))
    }
}

#[derive(Default)]
struct VolumeFields<'a> {
    image: Option<Field<'a, Reference>>,
}

impl<'de> Fields<'de> for VolumeFields<'de> {
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        match &*key {
            "image" => self.image = map.next_value::<Object<_>>()?.0,
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// Elements of `imagePullSecrets`, of which only `name` is kept; an element without one counts as
/// an empty name, so that the list is not taken for empty.
#[derive(Default)]
struct Names<'a>(SmallVec<[Cow<'a, str>; 4]>);

impl<'de> Items<'de> for Names<'de> {
    fn item<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<Option<()>, A::Error> {
        let Some(Object(element)) = seq.next_element::<Object<Field<'de, Name>>>()? else {
            return Ok(None);
        };
        self.0
            .push(element.and_then(|field| field.value).unwrap_or_default());
        Ok(Some(()))
    }
}

/// An object of which one string field is kept.
struct Field<'a, K> {
    value: Option<Cow<'a, str>>,
    key: std::marker::PhantomData<K>,
}

impl<K> Default for Field<'_, K> {
    fn default() -> Self {
        Self {
            value: None,
            key: std::marker::PhantomData,
        }
    }
}

impl<'a, K> Field<'a, K> {
    fn into_non_empty(self) -> Option<Cow<'a, str>> {
        self.value.filter(|value| !value.is_empty())
    }
}

/// The key of a [`Field`].
trait FieldKey {
    const KEY: &'static str;
}

struct Image;
impl FieldKey for Image {
    const KEY: &'static str = "image";
}

struct Reference;
impl FieldKey for Reference {
    const KEY: &'static str = "reference";
}

struct Name;
impl FieldKey for Name {
    const KEY: &'static str = "name";
}

impl<'de, K: FieldKey> Fields<'de> for Field<'de, K> {
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        if key == K::KEY {
            self.value = map.next_value::<Text<'de>>()?.0;
        } else {
            skip(map)?;
        }
        Ok(())
    }
}
