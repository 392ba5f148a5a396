//! The way from the API server through the Service to a replica: what it should be by its objects, what
//! the API server says when it goes it, and what a call from here says.

use k8s_openapi::api::discovery::v1::Endpoint;

use super::Finding;
use super::facts::{Facts, Looked, Proxied, Target};
use super::trouble::Trouble;

const CHECK: &str = "service";

/// Each trouble once, with the first evidence of it.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Some(Target::Service {
        namespace,
        name,
        port,
        ..
    }) = facts.target()
    else {
        return Vec::new();
    };
    let mut said = Said::default();
    said.objects(facts, &name, port);
    // What is missing there, every call runs into.
    if said.troubles.is_empty() {
        said.calls(facts);
    }
    said.into_findings(facts, &format!("{namespace}/{name}:{port}"))
}

/// What was learnt about the way.
#[derive(Default)]
struct Said {
    troubles: Vec<(Option<Trouble>, String)>,
    unseen: Vec<String>,
    proofs: Vec<String>,
}

impl Said {
    fn trouble(&mut self, trouble: Option<Trouble>, evidence: String) {
        let known = |(said, _): &(Option<Trouble>, _)| trouble.is_some() && *said == trouble;
        if !self.troubles.iter().any(known) {
            self.troubles.push((trouble, evidence));
        }
    }

    /// What was read; remembers why if nothing was.
    fn seen<'a, T>(&mut self, looked: &'a Looked<T>) -> Option<&'a T> {
        if let Looked::Denied(said) | Looked::Failed(said) = looked {
            self.unseen.push(said.clone());
        }
        looked.seen()
    }

    /// The Service, its port and its endpoints, as they are written.
    fn objects(&mut self, facts: &Facts, name: &str, port: i32) {
        if facts.service == Looked::Absent {
            let evidence = format!("service \"{name}\" not found");
            return self.trouble(Some(Trouble::ServiceNotFound), evidence);
        }
        if let Some(service) = self.seen(&facts.service) {
            let mut ports = service
                .spec
                .iter()
                .flat_map(|spec| spec.ports.iter().flatten());
            if !ports.any(|its| its.port == port) {
                let evidence = format!("no port {port} in service \"{name}\"");
                self.trouble(Some(Trouble::NoPort), evidence);
            }
        }
        if let Some(slices) = self.seen(&facts.slices) {
            let endpoints = slices
                .iter()
                .flat_map(|slice| slice.endpoints.iter().flatten());
            // Absent means ready (discovery/v1).
            let is_ready = |endpoint: &&Endpoint| {
                let conditions = endpoint.conditions.as_ref();
                conditions
                    .and_then(|conditions| conditions.ready)
                    .unwrap_or(true)
            };
            match endpoints.filter(is_ready).count() {
                0 => {
                    let evidence = format!("no ready endpoint of service \"{name}\"");
                    self.trouble(Some(Trouble::NoEndpoints), evidence);
                }
                ready => self.proofs.push(format!("ready endpoints: {ready}")),
            }
        }
    }

    /// The API server's proxy, which dials an endpoint and checks no certificate, and our own call.
    fn calls(&mut self, facts: &Facts) {
        let proxied = facts
            .proxied
            .as_ref()
            .and_then(|proxied| self.seen(proxied));
        match proxied {
            Some(Proxied::Answered(status)) => self.answered(*status, "the API server reaches it"),
            Some(Proxied::Unreached(text)) => self.trouble(Trouble::recognise(text), text.clone()),
            None => {}
        }
        match &facts.direct {
            Some(Ok(status)) => self.answered(*status, "a call from here verifies its certificate"),
            Some(Err(error)) => {
                self.trouble(
                    Trouble::of_call(error),
                    format!("a call from here: {error}"),
                );
            }
            None => {}
        }
    }

    fn answered(&mut self, status: u16, proof: &str) {
        match status {
            404 => self.trouble(Some(Trouble::WrongPath), "HTTP 404".to_owned()),
            _ => self.proofs.push(proof.to_owned()),
        }
    }

    fn into_findings(self, facts: &Facts, service: &str) -> Vec<Finding> {
        let sound = (self.troubles.is_empty() && !self.proofs.is_empty())
            .then(|| Finding::ok(CHECK, format!("{service}: {}", self.proofs.join("; "))));
        let troubles = self.troubles.into_iter().map(|(trouble, evidence)| {
            explain(CHECK, trouble, &format!("{service}: {evidence}"), facts)
        });
        let unseen = self.unseen.into_iter().map(|said| {
            let fix = "run it as someone who has this right, or inside the cluster";
            Finding::unseen(CHECK, format!("could not look: {said}"), fix)
        });
        sound.into_iter().chain(troubles).chain(unseen).collect()
    }
}

/// A problem on the way to the webhook.
pub(super) fn explain(
    check: &'static str,
    trouble: Option<Trouble>,
    evidence: &str,
    facts: &Facts,
) -> Finding {
    let names = &facts.names;
    let (cause, fix) = match trouble {
        Some(trouble) => (trouble.cause(), trouble.fix(names)),
        None => (
            "the webhook cannot be called",
            format!(
                "kubectl -n {} logs deployment/{}",
                names.namespace, names.webhook
            ),
        ),
    };
    Finding::problem(check, format!("{cause} ({evidence})"), fix)
}

#[cfg(test)]
mod tests {
    use super::super::{Status, sound};
    use super::*;
    use crate::http::client::CallError;
    use serde_json::json;

    fn check_changed(change: impl FnOnce(&mut Facts), expected: &[(Status, &str)]) {
        let (mut facts, _) = sound::facts();
        change(&mut facts);
        let findings = check(&facts);
        assert_eq!(findings.len(), expected.len(), "{findings:#?}");
        for (finding, (status, part)) in findings.iter().zip(expected) {
            assert_eq!(finding.status, *status);
            assert!(finding.message.contains(part), "{findings:#?}");
        }
    }

    #[test]
    fn each_broken_link_has_one_line() {
        use Status::{Ok as Fine, Problem, Unseen};
        check_changed(
            |_| {},
            &[(Fine, "ready endpoints: 2; the API server reaches it")],
        );
        check_changed(
            |facts| {
                facts.service = Looked::Absent;
                facts.slices = Looked::Seen(Vec::new());
                let text = "services \"pullpass-webhook\" not found".to_owned();
                facts.proxied = Some(Looked::Seen(Proxied::Unreached(text)));
            },
            &[(Problem, "Service does not exist")],
        );
        check_changed(
            |facts| {
                facts.service = Looked::Seen(
                    serde_json::from_value(json!({"spec": {"ports": [{"port": 8443}]}})).unwrap(),
                );
            },
            &[(Problem, "has not the port")],
        );
        check_changed(
            |facts| {
                facts.slices = Looked::Seen(Vec::new());
                let text = "no endpoints available for service \"x\"".to_owned();
                facts.proxied = Some(Looked::Seen(Proxied::Unreached(text)));
            },
            &[(Problem, "no replica")],
        );
        check_changed(
            |facts| facts.proxied = Some(Looked::Seen(Proxied::Answered(404))),
            &[(Problem, "does not know the path")],
        );
        check_changed(
            |facts| facts.direct = Some(Err(CallError::TimedOut)),
            &[(Problem, "firewall")],
        );
        check_changed(
            |facts| facts.proxied = Some(Looked::Denied("services/proxy".to_owned())),
            &[(Fine, "ready endpoints: 2"), (Unseen, "services/proxy")],
        );
    }

    #[test]
    fn unknown_words_are_shown_as_they_are() {
        let text = "something new under the sun".to_owned();
        check_changed(
            |facts| facts.proxied = Some(Looked::Seen(Proxied::Unreached(text))),
            &[(
                Status::Problem,
                "cannot be called (pullpass/pullpass-webhook:443: something new",
            )],
        );
    }

    #[test]
    fn a_url_has_no_service() {
        let (mut facts, _) = sound::facts();
        let mut configuration = sound::configuration();
        configuration["webhooks"][0]["clientConfig"] = json!({"url": "https://host/mutate"});
        facts.configurations = Looked::Seen(vec![serde_json::from_value(configuration).unwrap()]);
        assert_eq!(check(&facts), []);
    }
}
