//! Cases from a seed: built after the grammar from pieces that are known to be tricky, then bent.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};

use crate::case::{Bytes, Case};

pub(crate) struct Generator {
    state: u64,
    /// Half of the cases are tame: mostly well-formed, so that the deeper rules are reached.
    is_wild: bool,
}

const HOSTS: [&str; 43] = [
    "docker.io",
    "index.docker.io",
    "Docker.io",
    "registry-1.docker.io",
    "localhost",
    "localhost:5000",
    "LOCALHOST",
    "r.io",
    "R.io",
    "r.io:443",
    "r.io:05000",
    "r.io:",
    "a.r.io",
    "a.b.r.io",
    "x-y.io",
    "a_b.com",
    "a__b.c",
    "a..b",
    "-a.io",
    "a-.io",
    "1.2.3.4",
    "1.2.3.4:80",
    "10.39.0.12:5000",
    "[::1]",
    "[::1]:5000",
    "[fe80::1]",
    "[1:2:3:4:5:6:7:8]",
    "[12345::]",
    "[:::]",
    "[::A]",
    "[::ffff:1.2.3.4]",
    "[fe80::1%25en0]",
    "[fe80::1%252541-Z]",
    "[::1%2525z.a]",
    "Q",
    "UPPER",
    "Up.per",
    "plain",
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    "gcr.io",
    "a",
    "A",
    "registry.cn-hangzhou.aliyuncs.com",
];

const SEGMENTS: [&str; 18] = [
    "library",
    "app",
    "a",
    "team",
    "v1",
    "v2",
    "a_b",
    "a__b",
    "a.b",
    "a-b",
    "a--b",
    "a---b",
    "0",
    "x1",
    "images",
    "team-b",
    "a.b_c__d-e",
    "nginx",
];

const TAGS: [&str; 9] = [
    "1", "latest", "v1.0", "_x", "A.B-C", "1-", "5000", "x.y.z", "",
];

const BYTES: &[u8] =
    b"aZz09._-/:@%*[]?#~!$&'()+,;=<>\"\\ \t\n\r\x00\x7f\x80\xc3\xa4\xe2\x82\xff^|{}`AGz";

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            is_wild: true,
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a usize")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Rare in any case, and rarer by far in a tame one.
    fn wild(&mut self, n: usize) -> bool {
        let n = if self.is_wild { n } else { 40 * n };
        self.one_in(n)
    }

    /// Something usual, or in a wild case also something odd.
    fn usual_or_odd<'a>(&mut self, usual: &[&'a str], odd: &[&'a str]) -> &'a str {
        if self.is_wild && self.one_in(2) {
            self.pick(odd)
        } else {
            self.pick(usual)
        }
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Inserts, removes, replaces, doubles, swaps or cuts a byte or a run.
    fn bend(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let byte = BYTES[self.below(BYTES.len())];
        match self.below(7) {
            0 | 1 => bytes.insert(at, byte),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] = byte,
            4 if at < bytes.len() => bytes.insert(at, bytes[at]),
            5 if at + 1 < bytes.len() => bytes.swap(at, at + 1),
            6 if self.one_in(4) => bytes.truncate(at),
            _ => {}
        }
    }

    fn maybe_bend(&mut self, mut bytes: Vec<u8>, times_max: usize) -> Vec<u8> {
        if self.wild(2) {
            for _ in 0..=self.below(times_max) {
                self.bend(&mut bytes);
            }
        }
        bytes
    }

    fn hex(&mut self, length: usize) -> String {
        let digits: &[u8] = if self.wild(12) {
            b"0123456789abcdefA"
        } else {
            b"0123456789abcdef"
        };
        (0..length)
            .map(|_| char::from(digits[self.below(digits.len())]))
            .collect()
    }

    fn path(&mut self) -> String {
        if self.wild(60) {
            let length = 240 + self.below(20);
            return "a".repeat(length);
        }
        let count = 1 + self.below(3);
        let segments: Vec<_> = (0..count).map(|_| self.pick(&SEGMENTS)).collect();
        segments.join("/")
    }

    fn digest(&mut self) -> String {
        let (algorithm, length) = match self.below(8) {
            0..=3 => ("sha256", 64),
            4 => ("sha384", 96),
            5 => ("sha512", 128),
            6 => ("md5", 32),
            _ => ("sha256+b64", 64),
        };
        let length = if self.wild(6) {
            length + self.below(3) - 1
        } else {
            length
        };
        format!("{algorithm}:{}", self.hex(length))
    }

    fn reference(&mut self) -> String {
        if self.wild(60) {
            let length = 63 + self.below(3);
            return self.hex(length);
        }
        let mut text = String::new();
        if !self.one_in(4) {
            text += self.pick(&HOSTS);
            if !self.wild(30) {
                text += "/";
            }
        }
        text += &self.path();
        if self.one_in(3) {
            text += ":";
            let length = 126 + self.below(4);
            text += &if self.wild(20) {
                "t".repeat(length)
            } else {
                self.pick(&TAGS).into()
            };
        }
        if self.one_in(4) {
            text += "@";
            text += &self.digest();
        }
        text
    }

    pub(crate) fn image_case(&mut self) -> Case {
        self.is_wild = !self.one_in(4);
        let text = self.reference().into_bytes();
        Case::Image {
            image: Bytes(self.maybe_bend(text, 3)),
        }
    }

    /// A key: unrelated, or made of the image so that it has a chance to match.
    fn key(&mut self, image: &str) -> String {
        const HUB: [&str; 4] = [
            "index.docker.io",
            "https://index.docker.io/v1/",
            "http://index.docker.io/v2/",
            "http://index.docker.io",
        ];
        if !image.contains('.') && self.one_in(3) {
            return self.pick(&HUB).into();
        }
        if self.one_in(8) {
            const COMMON: [&str; 16] = [
                "index.docker.io",
                "https://index.docker.io/v1/",
                "https://index.docker.io/v1",
                "http://index.docker.io/v2/",
                "https://index.docker.io/v1/myorg",
                "docker.io",
                "*.io",
                "*",
                "*.*",
                "*.docker.io",
                "",
                "/",
                "https://",
                "r.io/*",
                "registry-1.docker.io",
                "index.docker.io:",
            ];
            return self.pick(&COMMON).into();
        }
        let (host, path) = if self.one_in(4) {
            (self.pick(&HOSTS).to_owned(), self.path())
        } else {
            let name = image.split(['@']).next().unwrap_or_default();
            match name.split_once('/') {
                Some((host, path)) => (host.to_owned(), path.to_owned()),
                None => ("docker.io".into(), name.to_owned()),
            }
        };
        let mut key = String::new();
        key += self.usual_or_odd(
            &["", "", "", "https://", "http://"],
            &["", "HTTPS://", "oci://", "https://http://"],
        );
        key += self.usual_or_odd(&[""], &["", "", "u@", "u:p@", "u%41:p@w@", "u p@"]);
        key += &self.globbed(&host);
        key += self.usual_or_odd(&[""], &["", "", ":443", ":5000", ":", ":*", ":0", ":1:2"]);
        key += self.usual_or_odd(&["", "", "", "/v1", "/v2"], &["/v1", "/v1/v2", "/", "//"]);
        if self.one_in(2) {
            key += "/";
            let end = self.below(path.len() + 1);
            key += path.get(..end).unwrap_or(&path);
        }
        if self.wild(4) {
            key += self.pick(&[
                "?x", "?", "#f", "#", "#%zz", "#\n", "%2F", "%3Fq", "%23", "%00", "%25", "%41",
                "%zz", "%ff", "/%76%31/",
            ]);
        }
        let bytes = if self.wild(4) {
            self.maybe_bend(key.into_bytes(), 2)
        } else {
            key.into_bytes()
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn globbed(&mut self, host: &str) -> String {
        if self.one_in(2) {
            return host.into();
        }
        let mut text = String::new();
        for c in host.chars() {
            match self.below(24) {
                0 => text.push('*'),
                1 => text += &format!("{c}*"),
                2 if self.wild(4) => text += &format!("%{:02X}", u32::from(c)),
                3 if self.wild(6) => text += "%25",
                4 if self.wild(6) => text += "%C3%A4",
                _ => text.push(c),
            }
        }
        if self.one_in(10) {
            text.replace(|c: char| c.is_ascii_alphanumeric(), "*")
        } else {
            text
        }
    }

    pub(crate) fn lookup_case(&mut self) -> Case {
        self.is_wild = self.one_in(2);
        let image = self.reference();
        let mut keys: Vec<_> = (0..=self.below(5)).map(|_| self.key(&image)).collect();
        // They are names of one JSON object.
        let mut seen = std::collections::HashSet::new();
        keys.retain(|key| seen.insert(key.clone()));
        Case::Lookup {
            keys,
            image: Bytes(image.into_bytes()),
        }
    }

    fn space(&mut self) -> &'static str {
        if self.wild(200) {
            self.pick(&["\x0c", "\u{a0}", "\0", "\u{feff}"])
        } else {
            self.pick(&["", "", "", "", " ", "\n", "\t", "\r\n"])
        }
    }

    /// A JSON string with this content; sometimes with needless or broken escapes.
    fn string(&mut self, content: &str) -> String {
        let mut text = String::from("\"");
        for c in content.chars() {
            match (c, self.below(30)) {
                ('"' | '\\', _) => text += &format!("\\{c}"),
                ('\n', _) => text += "\\n",
                ('\r', _) => text += "\\r",
                (_, 0) => text += &format!("\\u{:04x}", u32::from(c).min(0xFFFF)),
                (_, 1) if self.wild(4) => {
                    text += self.usual_or_odd(
                        &[
                            "\\ud800",
                            "\\udc00",
                            "\\ud83d\\ude00",
                            "\\ud800\\u0041",
                            "\\/",
                            "\\b",
                        ],
                        &["\\ud800", "\\ud800\\ud800\\udc00", "\\'", "\\x", "\\u12"],
                    );
                }
                _ => text.push(c),
            }
        }
        text + "\""
    }

    fn name(&mut self, name: &str) -> String {
        let mut text = String::new();
        for c in name.chars() {
            match self.below(30) {
                0 => text.extend(c.to_uppercase()),
                1 if c == 's' => text.push('\u{17F}'),
                2 if self.one_in(3) => text.push('\u{212A}'),
                _ => text.push(c),
            }
        }
        self.string(&text)
    }

    fn auth(&mut self) -> String {
        const USERS: [&[u8]; 8] = [
            b"user",
            b"",
            b" u ",
            b"AWS",
            b"robot$ci",
            b"\xff\xe2\x82x",
            b"a:b",
            b"UserName",
        ];
        const PASSWORDS: [&[u8]; 7] = [
            b"password",
            b"",
            b"p:w",
            b"pw\n",
            b"{\"type\":\"service_account\"}",
            b"\xc3\xa4",
            b"x",
        ];
        let mut plain = self.pick(&USERS).to_vec();
        if !self.wild(12) {
            plain.push(b':');
        }
        plain.extend(self.pick(&PASSWORDS));
        let mut text = match self.below(20) {
            0 | 1 => STANDARD_NO_PAD.encode(plain),
            2 => URL_SAFE.encode(plain),
            _ => STANDARD.encode(plain),
        };
        if self.one_in(5) {
            let at = self.below(text.len() + 1);
            let odd = [" ", "=", "==", "-", "_", "\t", "A", "\u{a0}"];
            text.insert_str(at, self.usual_or_odd(&["\n", "\r\n"], &odd));
        }
        text
    }

    fn value(&mut self) -> String {
        match self.below(12) {
            0 => "null".into(),
            1 => {
                let odd = ["01", "1e", "-", ".5", "+1", "NaN", "1.", "-a"];
                self.usual_or_odd(&["0", "-1", "1.5e3", "1e999", "0e-0"], &odd)
                    .into()
            }
            2 => self
                .usual_or_odd(&["true", "false"], &["tru", "nul", "True", "falsee"])
                .into(),
            3 => {
                let usual = ["[]", "{}", "[1,2]", "[[]]", "{\"a\":{\"b\":[null]}}"];
                let odd = [
                    "[1,]",
                    "{\"a\":1,}",
                    "{\"a\" 1}",
                    "[,]",
                    "{,}",
                    "[}",
                    "{]",
                    "[1 2]",
                ];
                self.usual_or_odd(&usual, &odd).into()
            }
            _ => {
                let contents = ["", "user", "x y", " p", "ä", "😀", "\u{7f}", "secret\n"];
                let content = self.pick(&contents);
                self.string(content)
            }
        }
    }

    fn object(&mut self, fields: &[(String, String)]) -> String {
        let mut text = format!("{}{{{}", self.space(), self.space());
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                text += ",";
            }
            text += &format!(
                "{}{name}{}:{}{value}{}",
                self.space(),
                self.space(),
                self.space(),
                self.space()
            );
        }
        text + "}" + self.space()
    }

    fn entry(&mut self) -> String {
        if self.wild(12) {
            return self.value();
        }
        let mut fields = Vec::new();
        for _ in 0..self.below(5) {
            const FIELDS: [&str; 8] = [
                "auth",
                "auth",
                "auth",
                "username",
                "password",
                "email",
                "identitytoken",
                "x",
            ];
            let field = self.pick(&FIELDS);
            let value = match field {
                "auth" if !self.wild(12) => {
                    let auth = self.auth();
                    self.string(&auth)
                }
                "username" | "password" | "email" if !self.wild(8) => {
                    let content =
                        self.pick(&["user", "pass word", "", " padded", "padded\t", "ünï"]);
                    self.string(content)
                }
                _ => self.value(),
            };
            fields.push((self.name(field), value));
        }
        self.object(&fields)
    }

    fn auths(&mut self) -> String {
        if self.wild(15) {
            return self.value();
        }
        let mut fields = Vec::new();
        for _ in 0..self.below(4) {
            let reference = self.reference();
            let key = if self.one_in(3) {
                self.pick(&["r.io", "a", "ä"]).into()
            } else {
                self.key(&reference)
            };
            let entry = self.entry();
            fields.push((self.string(&key), entry));
        }
        self.object(&fields)
    }

    fn headers(&mut self) -> String {
        if self.one_in(3) {
            return self.value();
        }
        let mut fields = Vec::new();
        for _ in 0..self.below(3) {
            let value = if self.one_in(3) {
                self.value()
            } else {
                self.string("v")
            };
            fields.push((self.string("User-Agent"), value));
        }
        self.object(&fields)
    }

    fn document(&mut self) -> String {
        let mut fields = Vec::new();
        for _ in 0..=self.below(3) {
            let field = match self.below(8) {
                0 => (self.name("HttpHeaders"), self.headers()),
                1 => (self.string("credHelpers"), self.value()),
                _ => (self.name("auths"), self.auths()),
            };
            fields.push(field);
        }
        self.object(&fields)
    }

    pub(crate) fn payload_case(&mut self) -> Case {
        self.is_wild = self.one_in(2);
        let is_config_json = !self.one_in(4);
        let text = match self.below(30) {
            0 => self.value(),
            _ if is_config_json => self.document(),
            _ => self.auths(),
        };
        let mut payload = text.into_bytes();
        if self.wild(4) {
            payload = self.maybe_bend(payload, 3);
        }
        match self.below(60) {
            0 => payload.splice(..0, *b"\xef\xbb\xbf").for_each(drop),
            1 => payload.extend(b"{}"),
            2 => payload.extend(b"\n\n"),
            3 => payload.clear(),
            _ => {}
        }
        let r#type = if is_config_json {
            "dockerconfigjson"
        } else {
            "dockercfg"
        };
        Case::Payload {
            r#type: r#type.into(),
            payload: Bytes(payload),
        }
    }
}
