//! The certificate chain against `caBundle`, the name that the API server asks for, and the calendar.

use std::time::{Duration, SystemTime};

use super::facts::{Facts, Target, server_name};
use super::trouble::Trouble;
use super::{Finding, Status, or_sound};
use crate::http::client::CallError;
use crate::pki;
use crate::pki::verify::{CertificateFacts, VerifyError, verify};

const CHECK: &str = "certificate";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Renewal is due with a third of a certificate's life left (ours, and cert-manager's default), so it is
/// late with a quarter left, and in trouble with a twelfth. Long-lived certificates are warned about
/// this long before their end at the earliest.
const LATE: Due = Due {
    before: Duration::from_secs(30 * DAY.as_secs()),
    part_of_life: 4,
};
/// As [`LATE`], when hours begin to count.
const URGENT: Due = Due {
    before: Duration::from_secs(7 * DAY.as_secs()),
    part_of_life: 12,
};

/// So long before the end, but at most this part of the whole life.
struct Due {
    before: Duration,
    part_of_life: u32,
}

/// Bundle, chain, name, and the time that is left to both.
pub(super) fn check(facts: &Facts, now: SystemTime) -> Vec<Finding> {
    let Some(webhook) = facts.webhook() else {
        return Vec::new();
    };
    let names = &facts.names;
    let name = match Target::of(webhook) {
        Target::Service {
            namespace, name, ..
        } => server_name(&namespace, &name),
        // Whoever serves there keeps its certificate elsewhere, and it may be from a public CA.
        Target::Url(_) => return Vec::new(),
    };
    let bundle = webhook.client_config.ca_bundle.as_ref();
    let bundle = bundle.map_or(&[][..], |bytes| &bytes.0);
    if let Err(finding) = readable(bundle, facts) {
        return vec![finding];
    }
    let secret = format!("{}/{}", names.namespace, names.tls_secret);
    let absent = || {
        let fix = Trouble::NoCertificate.fix(names);
        Finding::problem(CHECK, format!("there is no Secret {secret}"), fix)
    };
    let chain = match facts.chain.or_finding(CHECK, absent) {
        Ok(chain) => chain,
        // A verified call proves as much, but for the calendar.
        Err(findings) => return served(facts, &name).map_or(findings, |finding| vec![finding]),
    };
    if let Err(error) = verify(chain, bundle, &name, now) {
        return vec![refused(&error, &secret, &name, facts)];
    }
    let certificates = pki::parse_chain(chain).unwrap_or_default();
    let leaf = certificates.first().map(CertificateFacts::read);
    let issuer = issuer(chain, bundle, &name, now);
    let lives = [
        (
            format!("the certificate in {secret}"),
            leaf.and_then(Result::ok),
        ),
        ("its CA in caBundle".to_owned(), issuer),
    ];
    let lives = lives
        .into_iter()
        .filter_map(|(what, facts)| Some((what, facts?)));
    let ending: Vec<_> = lives
        .clone()
        .filter_map(|(what, life)| ending(&what, &life, facts, now))
        .collect();
    or_sound(ending, || {
        let left: Vec<_> = lives
            .map(|(what, life)| format!("{what} has {} days left", days_left(&life, now)))
            .collect();
        Finding::ok(
            CHECK,
            format!("{name} verifies against caBundle; {}", left.join(", ")),
        )
    })
}

/// Something that the API server can read has to be in `caBundle`.
fn readable(bundle: &[u8], facts: &Facts) -> Result<(), Finding> {
    let names = &facts.names;
    let fix = || Trouble::BundleNotPem.fix(names);
    if bundle.is_empty() {
        let message = "caBundle is empty: the API server trusts only public CAs";
        return Err(Finding::problem(CHECK, message, fix()));
    }
    match pki::parse_chain(bundle) {
        Ok(_) => Ok(()),
        Err(error) => Err(Finding::problem(CHECK, format!("caBundle: {error}"), fix())),
    }
}

/// What a call through the Service says of the certificate that is really served.
fn served(facts: &Facts, name: &str) -> Option<Finding> {
    match facts.direct.as_ref()? {
        Ok(_) => Some(Finding::ok(
            CHECK,
            format!("the served certificate verifies against caBundle for {name}"),
        )),
        Err(
            error @ (CallError::UnknownAuthority
            | CallError::WrongName { .. }
            | CallError::Expired
            | CallError::NotYetValid),
        ) => Some(super::reach::explain(
            CHECK,
            Trouble::of_call(error),
            &error.to_string(),
            facts,
        )),
        Err(_) => None,
    }
}

fn refused(error: &VerifyError, secret: &str, name: &str, facts: &Facts) -> Finding {
    let trouble = match error {
        VerifyError::UnknownIssuer | VerifyError::IssuerNotValid => Trouble::UnknownAuthority,
        VerifyError::Bundle => Trouble::BundleNotPem,
        VerifyError::Expired | VerifyError::NotYetValid => Trouble::Expired,
        VerifyError::Name(_) => Trouble::WrongName,
        VerifyError::Chain(_) | VerifyError::Other(_) => {
            let message = format!("the certificate in {secret} cannot be used: {error}");
            return Finding::problem(CHECK, message, facts.names.renew_certificate());
        }
    };
    super::reach::explain(
        CHECK,
        Some(trouble),
        &format!("{secret} for {name}: {error}"),
        facts,
    )
}

/// Of the certificates in the bundle that the chain leads to, the one that lives longest: the others
/// are there for the time of a rotation.
fn issuer(chain: &[u8], bundle: &[u8], name: &str, now: SystemTime) -> Option<CertificateFacts> {
    let certificates = pki::parse_chain(bundle).ok()?;
    let leads = certificates.iter().filter(|certificate| {
        let alone = pki::to_pem([*certificate]);
        verify(chain, alone.as_bytes(), name, now).is_ok()
    });
    leads
        .filter_map(|certificate| CertificateFacts::read(certificate).ok())
        .max_by_key(|facts| facts.not_after)
}

/// A finding if the end is near.
fn ending(what: &str, life: &CertificateFacts, facts: &Facts, now: SystemTime) -> Option<Finding> {
    let left = life.not_after.duration_since(now).unwrap_or_default();
    let whole = life
        .not_after
        .duration_since(life.not_before)
        .unwrap_or_default();
    let is_due = |due: &Due| left < due.before.min(whole / due.part_of_life);
    let names = &facts.names;
    let message = format!(
        "{what} has {} days left, and was not renewed",
        days_left(life, now)
    );
    let fix = match &*names.certificates {
        "self" => format!(
            "kubectl -n {} logs deployment/{}",
            names.namespace, names.controller
        ),
        _ => names.renew_certificate(),
    };
    let status = if is_due(&URGENT) {
        Status::Problem
    } else if is_due(&LATE) {
        Status::Warning
    } else {
        return None;
    };
    Some(Finding::bad(CHECK, status, message, fix))
}

fn days_left(life: &CertificateFacts, now: SystemTime) -> u64 {
    let left = life.not_after.duration_since(now).unwrap_or_default();
    left.as_secs() / DAY.as_secs()
}

#[cfg(test)]
mod tests {
    use super::super::facts::Looked;
    use super::super::sound;
    use super::*;
    use crate::pki::{CA_LIFETIME, CertificateAuthority, LEAF_LIFETIME};

    const NAME: &str = "pullpass-webhook.pullpass.svc";

    /// A leaf for `names` and the bundle, both made `age` ago.
    fn made(names: &[&str], age: Duration, now: SystemTime) -> (Vec<u8>, Vec<u8>) {
        let ca = CertificateAuthority::generate(now - age).unwrap();
        let leaf = ca.issue(names, now - age, LEAF_LIFETIME).unwrap();
        (leaf.certificates.into_bytes(), ca.certificate_pem().into())
    }

    fn check_pair(chain: Looked<Vec<u8>>, bundle: &[u8], status: Status, part: &str) -> String {
        let (mut facts, now) = sound::facts();
        facts.configurations = Looked::Seen(vec![sound::configuration_with(bundle)]);
        facts.chain = chain;
        let findings = check(&facts, now);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].status, status, "{findings:#?}");
        assert!(findings[0].message.contains(part), "{findings:#?}");
        findings[0].fix.clone().unwrap_or_default()
    }

    #[test]
    fn each_way_to_be_wrong() {
        let (_, now) = sound::facts();
        let (chain, bundle) = made(&[NAME], Duration::ZERO, now);
        let (_, other) = made(&[NAME], Duration::ZERO, now);
        let (foreign, foreign_bundle) = made(&["x.y.svc"], Duration::ZERO, now);
        let seen = |chain: &[u8]| Looked::Seen(chain.to_vec());
        use Status::{Ok as Fine, Problem, Unseen};

        check_pair(
            seen(&chain),
            &bundle,
            Fine,
            "has 90 days left, its CA in caBundle has 365",
        );
        check_pair(seen(&chain), b"", Problem, "caBundle is empty");
        check_pair(
            seen(&chain),
            b"Cg==",
            Problem,
            "caBundle: there is no certificate",
        );
        let fix = check_pair(seen(&chain), &other, Problem, "not from the CA");
        assert_eq!(
            fix,
            "kubectl -n pullpass rollout restart deployment pullpass-controller"
        );
        let fix = check_pair(seen(&foreign), &foreign_bundle, Problem, "for another name");
        assert!(
            fix.starts_with("kubectl -n pullpass delete secret pullpass-tls"),
            "{fix}"
        );
        check_pair(seen(b"x"), &bundle, Problem, "cannot be used");
        check_pair(
            Looked::Absent,
            &bundle,
            Problem,
            "no Secret pullpass/pullpass-tls",
        );
        check_pair(
            Looked::Denied("secrets".into()),
            &bundle,
            Unseen,
            "could not look: secrets",
        );
    }

    #[test]
    fn incident_23_the_end_is_announced() {
        let (_, now) = sound::facts();
        let aged = |days: u32, status, part: &str| {
            let (chain, bundle) = made(&[NAME], days * DAY, now);
            check_pair(Looked::Seen(chain), &bundle, status, part);
        };
        aged(61, Status::Ok, "has 29 days left");
        aged(68, Status::Warning, "pullpass-tls has 22 days left");
        aged(84, Status::Problem, "pullpass-tls has 6 days left");
        aged(91, Status::Problem, "has expired");
    }

    #[test]
    fn a_ca_that_ends_is_announced_too_but_not_a_previous_one() {
        let (_, now) = sound::facts();
        let ca = CertificateAuthority::generate(now - (CA_LIFETIME - 20 * DAY)).unwrap();
        let leaf = ca.issue(&[NAME], now, LEAF_LIFETIME).unwrap().certificates;
        let old = ca.certificate_pem();
        let seen = || Looked::Seen(leaf.clone().into_bytes());
        check_pair(
            seen(),
            old.as_bytes(),
            Status::Warning,
            "its CA in caBundle has 20 days",
        );

        let (chain, bundle) = made(&[NAME], Duration::ZERO, now);
        let both = [old.as_bytes(), &bundle].concat();
        check_pair(
            Looked::Seen(chain),
            &both,
            Status::Ok,
            "its CA in caBundle has 365 days",
        );
    }

    #[test]
    fn without_the_right_to_the_secret_a_call_says_what_is_served() {
        let (mut facts, now) = sound::facts();
        facts.chain = Looked::Denied("secrets".into());
        facts.direct = Some(Ok(405));
        assert_eq!(check(&facts, now)[0].status, Status::Ok);
        facts.direct = Some(Err(CallError::UnknownAuthority));
        assert_eq!(check(&facts, now)[0].status, Status::Problem);
        facts.direct = Some(Err(CallError::Refused));
        assert_eq!(check(&facts, now)[0].status, Status::Unseen);
    }
}
