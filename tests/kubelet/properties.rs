//! What holds for every input, without an oracle.

use proptest::prelude::*;
use pullpass::credential::keyring::{Key, index_key};
use pullpass::credential::{DockerConfig, Keyring, SecretType};
use pullpass::image::ImageRef;

/// Texts that have a chance to be references or keys, and some that have none.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9._:/@*%-]{0,40}",
        "([a-z*]{1,5}\\.){0,3}[a-z]{1,5}(:[0-9]{1,4})?(/[a-z0-9._-]{1,8}){0,3}(:[a-z0-9]{1,5})?",
        ".{0,40}",
    ]
}

proptest! {
    #[test]
    fn parsing_any_bytes_does_not_panic(bytes: Vec<u8>) {
        prop_assert!(ImageRef::parse_bytes(&bytes).is_err() || bytes.is_ascii());
        drop(DockerConfig::decode(SecretType::DockerConfigJson, &bytes));
        drop(DockerConfig::decode(SecretType::DockerCfg, &bytes));
    }

    #[test]
    fn a_name_parses_to_itself(text in text()) {
        if let Ok(image) = ImageRef::parse(&text) {
            let name = image.to_string();
            let again = ImageRef::parse(&name).expect("a name is a reference");
            prop_assert_eq!(&again.to_string(), &name);
            prop_assert_eq!((again.tag(), again.digest()), (None, None));
            prop_assert_eq!(again.registry(), image.registry());
            prop_assert_eq!(again.familiar(), image.familiar());
        }
    }

    #[test]
    fn the_covering_key_is_the_first_usable_one_of_the_lookup(
        keys in prop::collection::hash_map(text(), any::<bool>(), 0..8),
        image in text(),
    ) {
        let Ok(image) = ImageRef::parse(&image) else { return Ok(()) };
        let keyring = Keyring::new(keys.iter().map(|(key, usable)| Key { key, usable: *usable }));
        let lookup = keyring.lookup(&image);
        let usable = lookup.matched_in_order.iter().copied().find(|key| keys[*key]);
        prop_assert_eq!(keyring.covering_key(&image), usable);
        prop_assert!(lookup.matched_in_order.iter().all(|key| index_key(key).is_some()));
    }
}

#[test]
fn the_admission_path_does_not_allocate() {
    let keys: Vec<_> = (0..1_000)
        .map(|n| format!("r{n}.*.example.com/team{n}"))
        .collect();
    let keyring = Keyring::new(keys.iter().map(|key| Key { key, usable: true }));
    let mut covering = None;
    let counted = allocation_counter::measure(|| {
        for image in [
            "nginx",
            "[::1]:5000/x",
            "r7.eu.example.com/team7/app:1",
            "Not/An Image",
        ] {
            covering = ImageRef::parse(image)
                .ok()
                .and_then(|i| keyring.covering_key(&i))
                .or(covering);
        }
    });
    assert_eq!(counted.count_total, 0);
    assert_eq!(covering, Some("r7.*.example.com/team7"));
}
