//! Reads the `probe` of a pull secret.

use crate::image::ImageRef;
use crate::rules::diagnostics::Diagnostic;
use crate::rules::pattern::RegistryPattern;
use crate::rules::yaml::Node;

use super::reader::{Choice, Reader, Text};
use super::{
    OnRejected, PROBE_INTERVAL_SECONDS, PROBE_INTERVAL_SECONDS_MAX, PROBE_INTERVAL_SECONDS_MIN,
    ProbeConfig,
};

const ON_REJECTED: &[Choice<OnRejected>] =
    &[("inject", OnRejected::Inject), ("skip", OnRejected::Skip)];

impl Reader<'_, '_> {
    /// `{repository, interval, onRejected, plainHTTP}`, of which only `repository` is required.
    pub(super) fn probe(&mut self, node: Node<'_>) -> Option<ProbeConfig> {
        let known = ["repository", "interval", "onRejected", "plainHTTP"];
        let fields = self.fields(node, "`probe`", known)?;
        let [repository, interval, on_rejected, plain_http] = fields.values;
        let interval = interval.map(|node| self.interval(node));
        let on_rejected =
            on_rejected.and_then(|node| self.choice(node, "`onRejected`", ON_REJECTED));
        let plain_http = plain_http.and_then(|node| self.boolean(node, "`plainHTTP`"));
        let repository = self.required(repository, "repository", "`probe`", &fields.head)?;
        Some(ProbeConfig {
            repository: self.repository(repository)?,
            interval_seconds: interval.flatten().unwrap_or(PROBE_INTERVAL_SECONDS),
            on_rejected: on_rejected.unwrap_or_default(),
            plain_http: plain_http.unwrap_or_default(),
        })
    }

    /// `HOST[:PORT]/PATH`, written as image patterns are, but of one repository.
    fn repository(&mut self, node: Node<'_>) -> Option<String> {
        let Text { text, span } = self.string(node, "`repository`")?;
        let pattern = match RegistryPattern::parse(text) {
            Ok(pattern) => pattern,
            Err(error) => {
                self.report(Diagnostic::new(span, error.to_string()).help(error.fix()));
                return None;
            }
        };
        // In the normal form: `index.docker.io` is `docker.io`, and hosts are in lower case.
        let text = pattern.to_string();
        let image = ImageRef::parse(&text).ok();
        let is_one = !pattern.path().is_empty() && !text.contains('*');
        if is_one && image.is_some_and(|image| image.registry().is_some()) {
            return Some(text);
        }
        let message = format!("`{text}` is not one repository");
        let help =
            "write one that the credential may pull from, such as `harbor.example.com/team/app`";
        self.report(Diagnostic::new(span, message).help(help));
        None
    }

    /// Such as `10m`, in seconds.
    fn interval(&mut self, node: Node<'_>) -> Option<u32> {
        let Text { text, span } = self.string(node, "`interval`")?;
        let limits = PROBE_INTERVAL_SECONDS_MIN..=PROBE_INTERVAL_SECONDS_MAX;
        let (message, help) = match seconds(text) {
            Some(seconds) if limits.contains(&seconds) => return Some(seconds),
            Some(seconds) if seconds < PROBE_INTERVAL_SECONDS_MIN => (
                format!(
                    "`interval` cannot be shorter than {PROBE_INTERVAL_SECONDS_MIN} s (`PROBE_INTERVAL_SECONDS_MIN`)"
                ),
                "registries limit questions, and some lock accounts after a few wrong passwords",
            ),
            Some(_) => (
                format!(
                    "`interval` cannot be longer than {PROBE_INTERVAL_SECONDS_MAX} s (`PROBE_INTERVAL_SECONDS_MAX`)"
                ),
                "remove `probe` to ask never",
            ),
            None => (
                format!("`interval` cannot be `{text}`"),
                "write a whole number and one of `s`, `m` and `h`, such as `10m`",
            ),
        };
        self.report(Diagnostic::new(span, message).help(help));
        None
    }
}

/// A whole number and its unit. Beyond what can be held it is the largest, which is over any limit.
fn seconds(text: &str) -> Option<u32> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| digits.parse().unwrap_or(u32::MAX))?;
    Some(u32::saturating_mul(number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, expected) in [
            ("30s", Some(30)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("00m", Some(0)),
            ("99999999999999h", Some(u32::MAX)),
            ("m", None),
            ("", None),
            ("10", None),
            ("-1m", None),
            ("+1m", None),
            ("1.5h", None),
            ("10 m", None),
            ("10M", None),
            ("1é", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
