//! P4: decode, decide and patch, bytes to bytes, beside a handler that builds the whole Pod.

use std::hint::black_box;
use std::time::Instant;

use pullpass::admission::admit;
use pullpass::index::Index;
use pullpass::snapshot::Snapshot;
use serde_json::Value;

use super::bodies::{Bodies, RULES};
use super::report::Report;
use super::{Outcome, Scale, Spread, typed, workload};

/// Passes over all bodies in one sample of our handler, so that it lasts milliseconds.
const PASSES: usize = 20;

pub(crate) fn measure(scale: Scale, report: &mut Report) -> Outcome<()> {
    let plain = workload::snapshot(&workload::rules_text(RULES), Index::default())?;
    let selectors = workload::snapshot(&workload::selector_rules_text(), Index::default())?;
    let small = Bodies::of_size("2k")?;
    report.add("admission_allocations", allocations(&small, &plain)?);
    report.add(
        "admission_allocations_selectors",
        allocations(&small, &selectors)?,
    );

    for size in ["2k", "8k", "60k"] {
        let bodies = Bodies::of_size(size)?;
        check_same_answers(&bodies, &plain)?;
        let (mut ours_ns, mut typed_ns, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..scale.samples {
            let ours = ns_per_body(&bodies, PASSES, |body| admit(body, &plain).is_ok());
            let typed = ns_per_body(&bodies, 1, |body| {
                typed::admit(body, plain.ruleset()).is_ok()
            });
            ours_ns.push(ours);
            typed_ns.push(typed);
            ratios.push(typed / ours);
        }
        let bytes = format!("{} bytes", bodies.mean_bytes());
        let ours_ns = Spread::of(ours_ns).median;
        report.add_with_note(&format!("admission_ns_{size}"), ours_ns, &bytes);
        report.add_median(&format!("dynamicobject_ns_{size}"), typed_ns);
        report.add_median(&format!("throughput_vs_dynamicobject_{size}"), ratios);
    }
    Ok(())
}

fn ns_per_body(bodies: &Bodies, passes: usize, mut handle: impl FnMut(&[u8]) -> bool) -> f64 {
    let mut count = 0_u32;
    let started = Instant::now();
    for _ in 0..passes {
        for body in bodies.iter() {
            count += u32::from(handle(black_box(body)));
        }
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

/// Most allocations of one admission, over all bodies.
fn allocations(bodies: &Bodies, snapshot: &Snapshot) -> Outcome<f64> {
    let mut most = 0;
    for body in bodies.iter() {
        let mut answer = None;
        let info = allocation_counter::measure(|| answer = Some(admit(body, snapshot)));
        answer.ok_or("not called")??;
        most = most.max(info.count_total);
    }
    Ok(most as f64)
}

/// Both handlers must do the same work, or their ratio means nothing.
fn check_same_answers(bodies: &Bodies, snapshot: &Snapshot) -> Outcome<()> {
    let mut patched = 0;
    for body in bodies.iter() {
        let ours: Value = serde_json::from_slice(&admit(body, snapshot)?.body)?;
        let typed: Value = serde_json::from_slice(&typed::admit(body, snapshot.ruleset())?)?;
        for field in ["/response/uid", "/response/patch"] {
            if ours.pointer(field) != typed.pointer(field) {
                return Err(format!("{field} differs: {ours} and {typed}").into());
            }
        }
        patched += usize::from(ours.pointer("/response/patch").is_some());
    }
    if patched == 0 {
        return Err("no body was patched".into());
    }
    Ok(())
}
