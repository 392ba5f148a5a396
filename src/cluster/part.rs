//! Parts of objects, read instead of whole ones. This file must not know which.

/// Says of which resource of the API a type of ours with `metadata` is a part.
macro_rules! part_of {
    ($whole:ty, $part:ty) => {
        impl kube::Resource for $part {
            type DynamicType = ();
            type Scope = <$whole as kube::Resource>::Scope;

            fn kind(of: &()) -> std::borrow::Cow<'_, str> {
                <$whole as kube::Resource>::kind(of)
            }

            fn group(of: &()) -> std::borrow::Cow<'_, str> {
                <$whole as kube::Resource>::group(of)
            }

            fn version(of: &()) -> std::borrow::Cow<'_, str> {
                <$whole as kube::Resource>::version(of)
            }

            fn plural(of: &()) -> std::borrow::Cow<'_, str> {
                <$whole as kube::Resource>::plural(of)
            }

            fn meta(&self) -> &kube::api::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut kube::api::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

pub(crate) use part_of;
