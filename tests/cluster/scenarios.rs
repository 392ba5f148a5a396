//! The scenarios, one file for each subject.

mod always_pull;
mod attach;
mod cached;
mod capture;
mod certificates;
mod controls;
mod corpus;
mod delivery;
mod doctor;
mod documentation;
mod edits;
mod explain;
mod failures;
mod faults;
mod footprint;
mod import;
mod injection;
mod install;
mod lifecycle;
mod lists;
mod literal;
mod load;
mod migration;
mod nodes;
mod overhead;
mod pods;
mod probe;
mod programs;
mod reach;
mod recovery;
mod registries;
mod rights;
mod sources;
mod status;
mod tenants;
mod watches;
mod workloads;

use crate::harness::trials::Trials;

/// Injects `alpha` by pattern, so that no credential has to be known: for trials of the API server.
const RULES: &str = "
apiVersion: pullpass.dev/v1alpha1
kind: PullRules
pullSecrets: [{name: alpha}]
rules: [{name: registry, images: [registry.example.com], pullSecrets: [alpha]}]
";
/// An image that [`RULES`] covers.
const IMAGE: &str = "registry.example.com/team/app:v1";

/// `install` chooses the trials of the installed product, which need the image; `soak` those that take long,
/// `bench` those that measure; instead of those of every day. `always-pull` chooses of the latter those that pull,
/// for an API server with the admission plugin AlwaysPullImages.
const CHOICE: &str = "PULLPASS_CLUSTER_TRIALS";

/// Every trial. The order is the order of their start, so those that wait longest come first.
pub(crate) fn register(trials: &mut Trials) {
    match std::env::var(CHOICE).as_deref() {
        Ok("install") => {
            lifecycle::register(trials);
            install::register(trials);
            programs::register_install(trials);
            documentation::register(trials);
            load::register(trials);
            // At the end, because it changes the ServiceAccounts of every namespace.
            migration::register(trials);
        }
        Ok("soak") => load::register_soak(trials),
        Ok("bench") => {
            overhead::register(trials);
            footprint::register_bench(trials);
        }
        Ok("always-pull") => {
            register_daily(trials);
            always_pull::register(trials);
        }
        _ => register_daily(trials),
    }
}

fn register_daily(trials: &mut Trials) {
    // Its tokens hold for two minutes.
    programs::register(trials);
    // Its registries are asked every half minute.
    probe::register(trials);
    workloads::register(trials);
    cached::register(trials);
    nodes::register(trials);
    certificates::register(trials);
    delivery::register(trials);
    faults::register(trials);
    tenants::register(trials);
    sources::register(trials);
    footprint::register(trials);
    attach::register(trials);
    injection::register(trials);
    pods::register(trials);
    import::register(trials);
    registries::register(trials);
    explain::register(trials);
    recovery::register(trials);
    controls::register(trials);
    literal::register(trials);
    reach::register(trials);
    rights::register(trials);
    watches::register(trials);
    doctor::register(trials);
    status::register(trials);
    failures::register(trials);
    edits::register(trials);
    lists::register(trials);
    corpus::register(trials);
    capture::register(trials);
}
