//! Any bytes as the payload of a pull secret, of both types: never a panic; and the fast look-up of
//! the admission path agrees with the one that lists every key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pullpass::credential::{DockerConfig, Entry, Keyring, SecretType};
use pullpass::image::ImageRef;

fuzz_target!(|payload: &[u8]| {
    for kind in [SecretType::DockerConfigJson, SecretType::DockerCfg] {
        match DockerConfig::decode(kind, payload) {
            Ok(config) => check(&config),
            Err(error) => drop(error.to_string()),
        }
    }
});

fn check(config: &DockerConfig) {
    let entries = config.entries();
    assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    let keyring = Keyring::of(config);
    let near = entries.iter().flat_map(|entry| images_near(&entry.key));
    let far = ["nginx", "localhost/app", "[::1]:5000/app", "a_b.com/app"].map(str::to_owned);
    for image in near.chain(far) {
        if let Ok(image) = ImageRef::parse(&image) {
            check_lookup(entries, &keyring, &image);
        }
    }
}

fn check_lookup(entries: &[Entry], keyring: &Keyring, image: &ImageRef<'_>) {
    let lookup = keyring.lookup(image);
    let is_usable = |key: &&str| entries.iter().any(|e| e.key == *key && e.is_usable());
    let first_usable = lookup.matched_in_order.iter().copied().find(is_usable);
    assert_eq!(keyring.covering_key(image), first_usable, "{image}");
    for key in &lookup.matched_in_order {
        assert!(entries.iter().any(|entry| entry.key == *key));
    }
    if lookup.docker_hub_fallback {
        assert!(!lookup.matched_in_order.is_empty());
    }
}

/// Images that the key may cover, or that it covers nearly.
fn images_near(key: &str) -> Vec<String> {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or_default();
    let plain = bare.replace('*', "x");
    vec![
        bare.to_owned(),
        format!("{bare}/app:1"),
        format!("{bare}app"),
        format!("{plain}/team/app"),
        format!("{host}/app"),
        format!("{host}:5000/app"),
        format!("{}/app", host.replace('*', "")),
    ]
}
