//! P2: user-space instructions of one admission over TLS, beside a handler that does nothing, in the
//! same server.
//!
//! The server is this program again, under callgrind; the client stays outside. A marker request ends
//! one part of the count and begins the next, so that start, handshake and end are in no part that is
//! looked at. Each part is all bodies of a size once; the figure is the median of some parts, because
//! once a second the server looks after its files. Counts need no quiet machine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::bodies::{Bodies, RULES};
use super::client::{Client, Connection};
use super::report::Report;
use super::serve::{Handler, MARK, MARK_SYMBOL};
use super::site::Site;
use super::{Outcome, Scale, Spread};

const SIZES: [&str; 3] = ["2k", "8k", "60k"];

pub(crate) fn measure(scale: Scale, report: &mut Report) -> Outcome<()> {
    if !valgrind_is_there() {
        println!(
            "SKIPPED bench: no instruction counts, valgrind is missing (apt-get install valgrind)"
        );
        return Ok(());
    }
    let mut bodies = Vec::new();
    for size in SIZES {
        bodies.push(Bodies::of_size(size)?);
    }
    let per_request = |handler| {
        per_request(handler, &bodies, scale.instructions_parts).map_err(|e| e.to_string())
    };
    // Two servers at a time: counts do not mind.
    let (null, ours) = std::thread::scope(|scope| {
        let null = scope.spawn(|| per_request(Handler::Null));
        let ours = per_request(Handler::Pullpass);
        (null.join(), ours)
    });
    let null = null.map_err(|_| "the thread of the null handler panicked")??;
    for ((size, null), ours) in SIZES.iter().zip(null).zip(ours?) {
        let ratio = Spread::of(ours.clone()).median / Spread::of(null.clone()).median;
        report.add_median(&format!("instructions_null_{size}"), null);
        report.add_median(&format!("instructions_pullpass_{size}"), ours);
        report.add(&format!("instructions_vs_null_{size}"), ratio);
    }
    Ok(())
}

fn valgrind_is_there() -> bool {
    let runs = |command: &mut Command| {
        let silent = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        silent.status().is_ok_and(|status| status.success())
    };
    let mut valgrind = Command::new("valgrind");
    runs(valgrind.arg("--version"))
        || (runs(Command::new("apt-get").args(["install", "-y", "valgrind"]))
            && runs(&mut valgrind))
}

/// Instructions of one request of each size, in each of `parts`.
fn per_request(handler: Handler, bodies: &[Bodies], parts: usize) -> Outcome<Vec<Vec<f64>>> {
    let directory = tempfile::tempdir()?;
    let site = Site(directory.path());
    site.write_certificate()?;
    site.write_rules(RULES)?;
    let mut server = Server::start(handler, &site)?;
    // What only the first requests cost.
    for bodies in bodies {
        server.post_all(bodies)?;
    }
    server.post(MARK)?;
    for bodies in bodies {
        for _ in 0..parts {
            server.post_all(bodies)?;
            server.post(MARK)?;
        }
    }
    server.post(MARK)?;
    server.stop()?;
    // The first answer ends the first part, the mark after the first requests the second; every later
    // one holds one mark, and the last nothing else.
    let mut numbers = 3..;
    let mut counted = Vec::new();
    for bodies in bodies {
        let totals = numbers.by_ref().take(parts);
        let totals = totals.map(|number| instructions(&site, number));
        counted.push((totals.collect::<Outcome<Vec<_>>>()?, bodies.iter().count()));
    }
    let mark = instructions(&site, numbers.start)?;
    let per_request = counted.into_iter().map(|(totals, requests)| {
        let each = totals.into_iter();
        each.map(|total| ((total - mark) / requests as f64).round())
            .collect()
    });
    Ok(per_request.collect())
}

/// The server under callgrind, and one connection to it.
struct Server {
    child: Child,
    connection: Connection,
}

impl Server {
    fn start(handler: Handler, site: &Site<'_>) -> Outcome<Self> {
        let mut child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--dump-before={MARK_SYMBOL}"))
            .arg(format!("--callgrind-out-file={}", counts(site).display()))
            .arg(std::env::current_exe()?)
            .args(["--serve", handler.name(), "--site"])
            .arg(site.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .map_err(|_| format!("the server said {line:?}"))?;
        let connection =
            Client::new(address, &site.ca())?.first_answer(MARK, || match child.try_wait()? {
                Some(status) => Err(format!("the server ended with {status}").into()),
                None => Ok(()),
            })?;
        Ok(Self { child, connection })
    }

    fn post(&mut self, body: &[u8]) -> Outcome<()> {
        self.connection.post(body)
    }

    fn post_all(&mut self, bodies: &Bodies) -> Outcome<()> {
        bodies.iter().try_for_each(|body| self.post(body))
    }

    fn stop(self) -> Outcome<()> {
        let Self {
            mut child,
            connection,
        } = self;
        drop(connection);
        drop(child.stdin.take());
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("the server under callgrind ended with {status}").into());
        }
        Ok(())
    }
}

fn counts(site: &Site<'_>) -> std::path::PathBuf {
    site.0.join("callgrind.out")
}

/// The total of one part of the count.
fn instructions(site: &Site<'_>, part: usize) -> Outcome<f64> {
    let path = counts(site).with_extension(format!("out.{part}"));
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let prefixes = ["summary:", "totals:"];
    let total = text
        .lines()
        .find_map(|line| prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)));
    Ok(total.ok_or("callgrind wrote no total")?.trim().parse()?)
}
