//! Programs that the rules name (`exec`): asked once, and what their answer is worth.
//!
//! The one place of delivery that reads the wall clock, because a token says by that when it ends; what is made
//! of it is a span of time. This file must not know when to ask again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;

use crate::credential::docker_config::payload;
use crate::credential::{DockerConfig, Login, SecretType};
use crate::credential_helper::{Credential, Helper, HelperError, Provider, Scope};
use crate::delivery::Payload;
use crate::rules::config::{ExecSource, Protocol};

/// Variables of our own environment that a program gets too: where things are, and how to reach them.
const INHERITED: [&str; 11] = [
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// How the names of others begin: the identity that a cloud gives a Pod, or that somebody gives this one.
const INHERITED_PREFIXES: [&str; 4] = ["ALIBABA_CLOUD_", "AWS_", "AZURE_", "GOOGLE_"];
/// User name that docker's helpers give with a token that is no password.
const IDENTITY_TOKEN: &str = "<token>";

/// Most programs that run at once. All are asked when a controller begins to lead, and each may take
/// [`MEMORY_BYTES_MAX`](crate::credential_helper::MEMORY_BYTES_MAX): four are 1 GiB. Fewer would be held up too soon:
/// one that hangs keeps its place for a minute, as all of one cloud may at once; of four places, three may be kept so.
const RUNNING_MAX: usize = 4;

/// Who asks programs. All clones count as one.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// Where those are that are called by a plain name.
    directory: PathBuf,
    /// As many as may start one more.
    places: Arc<Semaphore>,
}

/// What a program gave.
pub(super) struct Answer {
    /// What copies carry.
    pub(super) payload: Arc<Payload>,
    /// How long it holds, from now on.
    pub(super) lifetime: Duration,
}

/// Logins by registry key, and how long they hold.
type Logins = (Vec<(String, Login)>, Duration);

impl Programs {
    /// For programs of this directory, where they are called by a plain name.
    pub(super) fn new(directory: PathBuf) -> Self {
        let places = Arc::new(Semaphore::new(RUNNING_MAX));
        Self { directory, places }
    }

    /// Asks a program for all that it is to be asked.
    ///
    /// # Errors
    /// Why there is no answer that a kubelet could use, without a byte of it.
    pub(super) async fn ask(&self, exec: &ExecSource) -> Result<Answer, String> {
        let default = Duration::from_secs(exec.default_cache_seconds);
        let asked = match &exec.protocol {
            Protocol::Kubelet {
                api_version,
                images,
            } => self.ask_provider(exec, api_version, images, default).await,
            Protocol::Docker { servers } => {
                let logins = self.ask_helper(exec, servers).await;
                logins.map(|logins| (logins, default))
            }
        };
        let (logins, lifetime) = asked.map_err(|error| error.to_string())?;
        if logins
            .iter()
            .any(|(_, login)| login.entry().username == IDENTITY_TOKEN)
        {
            return Err(
                "it gave an identity token, which no kubelet can use as a password".to_owned(),
            );
        }
        let mut logins_by_key = BTreeMap::new();
        for (key, login) in &logins {
            let other = logins_by_key.insert(key.clone(), login);
            if other.is_some_and(|other| !other.is_same_account(login)) {
                return Err(
                    "it gave two logins for one registry key: make a pull secret for each image"
                        .to_owned(),
                );
            }
        }
        let kind = SecretType::DockerConfigJson;
        let bytes = payload(logins_by_key).into_bytes();
        let left = until_expiry(kind, &bytes);
        if left.is_zero() {
            return Err("it gave a token that has ended already".to_owned());
        }
        let lifetime = lifetime.min(left);
        Ok(Answer {
            payload: Payload::new(kind, &bytes)?.into(),
            lifetime,
        })
    }

    /// Asks about each image that no answer before was for.
    async fn ask_provider(
        &self,
        exec: &ExecSource,
        api_version: &str,
        images: &[String],
        default: Duration,
    ) -> Result<Logins, HelperError> {
        let provider = Provider::new(self.path(exec), exec.args.clone(), environment(exec));
        let mut logins: Vec<(String, Login)> = Vec::new();
        let mut lifetime = Duration::MAX;
        let mut answered: Vec<(Scope, &str)> = Vec::new();
        for image in images {
            let is_answered = |(scope, of): &(Scope, &str)| match scope {
                Scope::Image => of == image,
                Scope::Registry => registry(of) == registry(image),
                Scope::Global => true,
            };
            if answered.iter().any(is_answered) {
                continue;
            }
            let answer = self.in_turn(provider.ask(api_version, image)).await?;
            answered.push((answer.scope, image));
            // Nothing means that a kubelet keeps no answer, not that the login ends at once.
            let says = answer.cache_duration.filter(|says| !says.is_zero());
            lifetime = lifetime.min(says.unwrap_or(default));
            for (key, login) in answer.logins {
                logins.push((key.clone(), self::login(&key, login)));
            }
        }
        Ok((logins, lifetime))
    }

    async fn ask_helper(
        &self,
        exec: &ExecSource,
        servers: &[String],
    ) -> Result<Vec<(String, Login)>, HelperError> {
        let helper = Helper::at(self.path(exec), exec.args.clone(), environment(exec));
        let mut logins = Vec::new();
        for server in servers {
            let credential = self.in_turn(helper.get(server)).await?;
            logins.push((server.clone(), login(server, credential)));
        }
        Ok(logins)
    }

    /// Runs a program when fewer than [`RUNNING_MAX`] run. The wait is no part of the time that it may take.
    async fn in_turn<T>(&self, run: impl Future<Output = T>) -> T {
        // Nobody closes it.
        let _place = self.places.acquire().await.ok();
        run.await
    }

    fn path(&self, exec: &ExecSource) -> String {
        // An absolute path replaces the directory.
        let path = self.directory.join(Path::new(&exec.command));
        path.to_string_lossy().into_owned()
    }
}

fn login(key: &str, credential: Credential) -> Login {
    let Credential { username, secret } = credential;
    Login::new(key, username, secret)
}

/// What is inherited, and then what the rules say, which wins.
fn environment(exec: &ExecSource) -> Vec<(String, String)> {
    let is_inherited = |name: &str| {
        let mut prefixes = INHERITED_PREFIXES.iter();
        INHERITED.contains(&name) || prefixes.any(|prefix| name.starts_with(prefix))
    };
    let ours = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let inherited = ours.filter(|(name, _)| is_inherited(name));
    inherited.chain(exec.env.iter().cloned()).collect()
}

fn registry(image: &str) -> &str {
    image
        .split_once('/')
        .map_or(image, |(registry, _)| registry)
}

/// How long it is until the first of those passwords ends that say when they do.
fn until_expiry(kind: SecretType, payload: &[u8]) -> Duration {
    let config = DockerConfig::decode(kind, payload).ok();
    let entries = config.iter().flat_map(DockerConfig::entries);
    let first = entries.filter_map(|entry| entry.expires()).min();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    first.map_or(Duration::MAX, |first| {
        Duration::from_secs(first).saturating_sub(now.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::pin;

    use futures_util::StreamExt as _;
    use tokio::time::{Instant, sleep};

    const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

    /// A program that runs this script; it is asked about these images.
    fn exec(script: &str, images: &[&str]) -> ExecSource {
        ExecSource {
            command: "/bin/sh".to_owned(),
            args: ["-c", script, "plugin"].map(ToOwned::to_owned).into(),
            env: Vec::new(),
            protocol: Protocol::Kubelet {
                api_version: V1,
                images: images.iter().map(|image| (*image).to_owned()).collect(),
            },
            default_cache_seconds: 600,
        }
    }

    /// A script that answers with logins for `auth`, a JSON object.
    fn answering(rest: &str, auth: &str) -> String {
        format!(
            r#"cat >/dev/null; echo '{{"apiVersion":"{V1}","kind":"CredentialProviderResponse",{rest},"auth":{auth}}}'"#
        )
    }

    fn programs() -> Programs {
        Programs::new("/plugins".into())
    }

    async fn ask(exec: &ExecSource) -> Result<(String, u64), String> {
        let answer = programs().ask(exec).await?;
        let text = String::from_utf8(answer.payload.bytes.to_vec()).unwrap();
        Ok((text, answer.lifetime.as_secs()))
    }

    const LOGIN: &str = r#"{"b.io":{"username":"u","password":"hunter2"},"a.io":{"username":"AWS","password":"p:q"}}"#;

    #[tokio::test]
    async fn scenario_52_an_answer_becomes_one_payload() {
        let expected =
            r#"{"auths":{"a.io":{"auth":"QVdTOnA6cQ=="},"b.io":{"auth":"dTpodW50ZXIy"}}}"#;
        for (rest, seconds) in [
            (
                r#""cacheKeyType":"Registry","cacheDuration":"6h0m0s""#,
                6 * 3600,
            ),
            (r#""cacheKeyType":"Global","cacheDuration":null"#, 600),
            (r#""cacheKeyType":"Image""#, 600),
            (r#""cacheKeyType":"Image","cacheDuration":"1m30.5s""#, 90),
            (r#""cacheKeyType":"Image","cacheDuration":"0s""#, 600),
            (r#""cacheKeyType":"Image","cacheDuration":"-5s""#, 600),
        ] {
            let found = ask(&exec(&answering(rest, LOGIN), &["a.io"])).await;
            assert_eq!(found, Ok((expected.to_owned(), seconds)), "{rest}");
        }
    }

    #[tokio::test]
    async fn scenario_52_a_token_that_says_when_it_ends_is_believed() {
        use base64::Engine as _;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let end = now.as_secs() + 100;
        let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{end}}}"#));
        let header = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let auth = format!(r#"{{"r.io":{{"username":"u","password":"{header}.{claims}.x"}}}}"#);
        let script = answering(r#""cacheKeyType":"Image","cacheDuration":"1h""#, &auth);
        let (_, seconds) = ask(&exec(&script, &["r.io"])).await.unwrap();
        assert!((90..=100).contains(&seconds), "{seconds}");
        let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1000}"#);
        let auth = format!(r#"{{"r.io":{{"username":"u","password":"{header}.{claims}.x"}}}}"#);
        let ended = answering(r#""cacheKeyType":"Image","cacheDuration":"1h""#, &auth);
        let ended = ask(&exec(&ended, &["r.io"])).await.unwrap_err();
        assert_eq!(ended, "it gave a token that has ended already");
    }

    #[tokio::test]
    async fn two_logins_for_one_key_are_no_answer() {
        let login = |user: &str| format!(r#"{{"r.io":{{"username":"{user}","password":"p"}}}}"#);
        let image = r#""cacheKeyType":"Image""#;
        let images = ["r.io/a", "r.io/b"];
        let (a, b) = (answering(image, &login("a")), answering(image, &login("b")));
        let (a, b) = (
            a.replace("cat >/dev/null; ", ""),
            b.replace("cat >/dev/null; ", ""),
        );
        let each = format!("if grep -q r.io/a; then {a}; else {b}; fi");
        let found = ask(&exec(&each, &images)).await.unwrap_err();
        let expected = "it gave two logins for one registry key: make a pull secret for each image";
        assert_eq!(found, expected);
        let same = answering(image, &login("a"));
        assert!(ask(&exec(&same, &images)).await.is_ok());
    }

    #[tokio::test]
    async fn one_call_for_each_key_of_the_cache() {
        let images = ["a.io/x", "a.io/y", "b.io/x"];
        for (scope, expected) in [("Image", 3), ("Registry", 2), ("Global", 1)] {
            let dir = tempfile::tempdir().unwrap();
            let calls = dir.path().join("calls");
            let answer = answering(&format!(r#""cacheKeyType":"{scope}""#), LOGIN);
            let script = format!("cat >>{}; {answer}", calls.display());
            ask(&exec(&script, &images)).await.unwrap();
            let calls = std::fs::read_to_string(calls).unwrap();
            assert_eq!(calls.matches("CredentialProviderRequest").count(), expected);
            assert!(
                calls.contains(r#""image":"a.io/x""#) && calls.contains(V1),
                "{calls}"
            );
        }
    }

    #[tokio::test]
    async fn scenario_52_what_is_no_answer_is_told_without_a_byte_of_it() {
        let garbage = "`/bin/sh` answered something else than the JSON of the protocol";
        let kind = format!("`/bin/sh` did not answer with a CredentialProviderResponse of {V1}");
        let image = r#""cacheKeyType":"Image""#;
        let wrong = |from: &str, to: &str| answering(image, LOGIN).replace(from, to);
        for (script, expected) in [
            ("echo hunter2".to_owned(), garbage),
            ("exit 0".to_owned(), garbage),
            (answering(image, "7"), garbage),
            (answering(r#""cacheKeyType":"hunter2""#, LOGIN), garbage),
            (
                answering(r#""cacheKeyType":"Image","cacheDuration":"hunter2""#, LOGIN),
                garbage,
            ),
            (wrong("CredentialProviderResponse", "Other"), &kind),
            (wrong("k8s.io/v1", "k8s.io/v9"), &kind),
            (
                "echo hunter2 >&2; exit 3".to_owned(),
                "`/bin/sh` failed (exit status: 3)",
            ),
            (
                "echo 'hunter2: AccessDeniedException' >&2; exit 1".to_owned(),
                "`/bin/sh` failed (exit status: 1): accessdenied",
            ),
            (
                "kill -9 $$".to_owned(),
                "`/bin/sh` failed (signal: 9 (SIGKILL))",
            ),
            (
                "yes hunter2".to_owned(),
                "`/bin/sh` wrote more than 1048576 bytes",
            ),
            (
                answering(image, "{}"),
                "no entry has both a user name and a password",
            ),
            (
                answering(image, "null"),
                "no entry has both a user name and a password",
            ),
        ] {
            let found = ask(&exec(&script, &["r.io"])).await.unwrap_err();
            assert_eq!(found, expected, "{script}");
        }
        let missing = ExecSource {
            command: "plugin".to_owned(),
            ..exec("", &["r.io"])
        };
        let expected = "`/plugins/plugin` does not exist, or not what it needs to run";
        assert_eq!(ask(&missing).await.unwrap_err(), expected);
    }

    /// In seconds: how long each of some programs takes that are asked at once, and when it has ended.
    #[tokio::test(start_paused = true)]
    async fn scenario_52_three_that_hang_hold_nobody_up() {
        for (take, expected) in [
            (&[60, 60, 60, 1, 1, 1], &[60, 60, 60, 1, 2, 3]),
            (&[60, 60, 60, 60, 1, 1], &[60, 60, 60, 60, 61, 61]),
        ] {
            let (programs, start) = (&programs(), Instant::now());
            let runs = take.iter().map(|seconds| async move {
                let run = async { sleep(Duration::from_secs(*seconds)).await };
                programs.in_turn(run).await;
                start.elapsed().as_secs()
            });
            let ends = futures_util::stream::iter(runs).buffered(take.len());
            assert_eq!(ends.collect::<Vec<_>>().await, expected);
        }
    }

    #[tokio::test]
    async fn scenario_52_each_program_waits_for_its_turn() {
        let mut provider = exec("", &["r.io"]);
        provider.command = "nothing".to_owned();
        let helper = ExecSource {
            protocol: Protocol::Docker {
                servers: vec!["r.io".to_owned()],
            },
            ..provider.clone()
        };
        for exec in [provider, helper] {
            let programs = programs();
            let all = u32::try_from(RUNNING_MAX).unwrap();
            let all = programs.places.acquire_many(all).await;
            let mut asked = pin!(programs.ask(&exec));
            // To start what is not there fails at once.
            assert!(futures_util::poll!(&mut asked).is_pending());
            drop(all);
            let reason = asked.await.err().unwrap();
            assert!(reason.contains("does not exist"), "{reason}");
        }
    }

    #[tokio::test]
    async fn scenario_52_a_docker_helper_is_asked_for_each_server() {
        let script = r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"$1-$server\",\"Secret\":\"p\"}""#;
        let helper = |script: &str, servers: &[&str]| ExecSource {
            protocol: Protocol::Docker {
                servers: servers.iter().map(|server| (*server).to_owned()).collect(),
            },
            ..exec(script, &[])
        };
        let (text, seconds) = ask(&helper(script, &["a.io", "b.io"])).await.unwrap();
        // Base64 of `get-a.io:p` and `get-b.io:p`.
        let expected =
            r#"{"auths":{"a.io":{"auth":"Z2V0LWEuaW86cA=="},"b.io":{"auth":"Z2V0LWIuaW86cA=="}}}"#;
        assert_eq!((&*text, seconds), (expected, 600));
        for (script, expected) in [
            (
                "echo credentials not found in native keychain; exit 1",
                "`/bin/sh` has no login for it",
            ),
            (
                r#"echo '{"Username":"<token>","Secret":"hunter2"}'"#,
                "it gave an identity token, which no kubelet can use as a password",
            ),
        ] {
            let found = ask(&helper(script, &["a.io"])).await.unwrap_err();
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn a_program_sees_its_environment_and_no_more() {
        let mut exec = exec("env >&2; cat; exit 1", &["r.io"]);
        exec.env = vec![("PATH".to_owned(), "/mine:/bin:/usr/bin".to_owned())];
        let variables = environment(&exec);
        let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| {
            let prefix = INHERITED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix));
            prefix || INHERITED.contains(name)
        }));
        assert_eq!(
            variables.last().unwrap().1,
            "/mine:/bin:/usr/bin",
            "the rules win"
        );
        assert!(
            std::env::var_os("CARGO_MANIFEST_DIR").is_some()
                && !names.contains(&"CARGO_MANIFEST_DIR")
        );
    }
}
