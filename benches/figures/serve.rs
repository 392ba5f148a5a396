//! The server whose instructions are counted: the program's own, with one of two handlers.
//!
//! One thread, so that no counts depend on who got which request; but as the null webhook of a cluster, which
//! is timed beside the program that ships, as many as that has.

use std::io::{Read as _, Write as _};
use std::path::Path;

use clap::ValueEnum;
use pullpass::admission::{self, Answer, Reason, Report, ReviewError};
use pullpass::shutdown;
use pullpass::snapshot::Snapshot;
use pullpass::webhook::{CertificateSource, Config, Webhook};
use smallvec::SmallVec;

use super::Outcome;
use super::site::Site;

/// What answers the reviews.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Handler {
    /// Reads nothing, and answers with the same patch every time.
    Null,
    /// The same, but with the uid that an API server wants back, and on as many threads as what ships.
    Fixed,
    /// What ships.
    Pullpass,
}

impl Handler {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Fixed => "fixed",
            Self::Pullpass => "pullpass",
        }
    }
}

/// A request with this body ends a part of callgrind's count.
pub(crate) const MARK: &[u8] = b"mark";

/// What callgrind is told to watch for: [`instruction_count_mark`].
pub(crate) const MARK_SYMBOL: &str = "*instruction_count_mark*";

#[inline(never)]
fn instruction_count_mark(body: &[u8]) {
    std::hint::black_box(body);
}

fn null(body: &[u8], _: &Snapshot) -> Result<Answer, ReviewError> {
    if body == MARK {
        instruction_count_mark(body);
    }
    Ok(patch())
}

/// Where the uid is in every review: `request` begins with it.
const UID: &[u8] = br#""uid":""#;
/// Length of a uid.
const UID_BYTES: usize = 36;

fn fixed(body: &[u8], _: &Snapshot) -> Result<Answer, ReviewError> {
    let mut answer = patch();
    let find = |text: &[u8]| text.windows(UID.len()).position(|window| window == UID);
    if let (Some(from), Some(to)) = (find(body), find(&answer.body)) {
        let from = from + UID.len()..from + UID.len() + UID_BYTES;
        let to = to + UID.len()..to + UID.len() + UID_BYTES;
        if let (Some(uid), Some(place)) = (body.get(from), answer.body.get_mut(to)) {
            place.copy_from_slice(uid);
        }
    }
    Ok(answer)
}

fn pullpass(body: &[u8], snapshot: &Snapshot) -> Result<Answer, ReviewError> {
    if body == MARK {
        instruction_count_mark(body);
        return Ok(patch());
    }
    admission::admit(body, snapshot)
}

/// An answer as any webhook gives that adds one field without looking.
fn patch() -> Answer {
    let body = concat!(
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"#,
        r#""uid":"094d3e4c-3070-4f5d-81ee-1ad540ab8b26","allowed":true,"patchType":"JSONPatch","#,
        r#""patch":"W3sib3AiOiJhZGQiLCJwYXRoIjoiL3NwZWMvaW1hZ2VQdWxsU2VjcmV0cyIsInZhbHVl"#,
        r#"IjpbeyJuYW1lIjoicHVsbC0wIn1dfV0="}}"#
    );
    Answer {
        body: body.as_bytes().to_vec(),
        report: Report {
            reason: Reason::Injected,
            injections: SmallVec::new(),
            warnings: SmallVec::new(),
            images_unparsable: 0,
            lacks_labels: false,
        },
    }
}

/// Serves the site, says where on stdout, and ends when stdin does.
pub(crate) fn run(handler: Handler, directory: &Path) -> Outcome<()> {
    let site = Site(directory);
    let mut config = Config::new(site.rules());
    config.certificate = CertificateSource::Files {
        certificate: site.certificate(),
        key: site.key(),
    };
    config.admit = match handler {
        Handler::Null => null,
        Handler::Fixed => fixed,
        Handler::Pullpass => pullpass,
    };
    let mut runtime = match handler {
        Handler::Fixed => tokio::runtime::Builder::new_multi_thread(),
        Handler::Null | Handler::Pullpass => tokio::runtime::Builder::new_current_thread(),
    };
    runtime.enable_all().build()?.block_on(async {
        let (stopper, stop) = shutdown::channel();
        let webhook = Webhook::bind(config, stop).await?;
        println!("{}", webhook.local_addr());
        std::io::stdout().flush()?;
        let until_stdin_ends =
            tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()).map(drop));
        tokio::select! {
            served = webhook.serve() => served?,
            ended = until_stdin_ends => { ended??; stopper.now(); }
        }
        Ok(())
    })
}
