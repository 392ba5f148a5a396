//! Any bytes as an image reference: never a panic, and what parses is a name that parses to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pullpass::image::ImageRef;

fuzz_target!(|input: &[u8]| {
    let Ok(image) = ImageRef::parse_bytes(input) else {
        return;
    };
    let name = image.to_string();
    let mut whole = name.clone();
    if let Some(tag) = image.tag() {
        whole += &format!(":{tag}");
    }
    if let Some(digest) = image.digest() {
        whole += &format!("@{digest}");
    }
    let again = ImageRef::parse(&whole).expect("a normalised reference parses");
    assert_eq!(again.to_string(), name);
    assert_eq!(again.registry(), image.registry());
    assert_eq!((again.tag(), again.digest()), (image.tag(), image.digest()));
    assert_eq!(again.familiar(), image.familiar());
    assert_eq!(again.repository(), image.repository());
});
