//! Any text as `index.json`: never a panic; what is read is written and read again as the same; and keys
//! without user info cover what they covered with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pullpass::credential::keyring::{index_key, without_user_info};
use pullpass::image::ImageRef;
use pullpass::index::document::SecretDocument;
use pullpass::index::{Coverage, IndexDocument};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    check_key(text);
    match IndexDocument::parse(text) {
        Ok(document) => check(&document),
        Err(error) => drop(error.to_string()),
    }
});

/// Ends when nothing but the keys' user info is lost.
fn check(document: &IndexDocument) {
    let Ok(json) = document.to_json() else {
        return; // Too large with the fields that it left out.
    };
    assert_eq!(IndexDocument::parse(&json).as_ref(), Ok(document));
    for (name, before) in document.to_index().secrets {
        let written = SecretDocument::new(&before, String::new());
        let mut document = document.clone();
        document.secrets = [(name.clone(), written)].into();
        let after = document.to_index();
        let Some(after) = after.secrets.get(&name) else {
            panic!("{name} is lost");
        };
        assert_eq!(after.state, before.state);
        assert_eq!(after.undecodable_in, before.undecodable_in);
        check_coverage(&before, after);
    }
}

fn check_coverage(before: &Coverage, after: &Coverage) {
    let near = before.keyring.keys().flat_map(images_near);
    for image in near.chain(["nginx", "localhost/app"].map(str::to_owned)) {
        if let Ok(image) = ImageRef::parse(&image) {
            let covers = |coverage: &Coverage| coverage.keyring.covering_key(&image).is_some();
            assert_eq!(covers(before), covers(after), "{image}");
        }
    }
}

fn check_key(key: &str) {
    if let Some(expected) = index_key(key) {
        let bare = without_user_info(key);
        assert_eq!(index_key(&bare), Some(expected), "{key:?} {bare:?}");
        assert_eq!(without_user_info(&bare), bare);
    }
}

/// Images that the key may cover.
fn images_near(key: &str) -> Vec<String> {
    check_key(key);
    let bare = without_user_info(key);
    let bare = bare
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    vec![
        bare.to_owned(),
        format!("{bare}/app"),
        format!("{}/team/app", bare.replace('*', "x")),
    ]
}
