//! The ways an API server reaches a webhook: by URL, through a Service and kube-proxy, and through a
//! Service whose endpoints it dials itself, as on clusters with an aggregator-routing API server.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::{IMAGE, RULES};
use crate::harness::api::Api;
use crate::harness::cluster::Cluster;
use crate::harness::namespace::{Namespace, pull_secrets_of, unscheduled_pod};
use crate::harness::network::BRIDGE_ADDRESS;
use crate::harness::trials::Trials;
use crate::harness::wait::{HAPPY, wait_for};
use crate::harness::webhook::{self, Pullpass, Reach, Registration, WEBHOOKS};

pub(crate) fn register(trials: &mut Trials) {
    trials.api("incident_42_reached_by_url", by_url);
    trials.node(
        "incident_42_reached_through_a_service_and_kube_proxy",
        through_service,
    );
    trials.node(
        "incident_42_reached_directly_at_the_endpoints_of_a_service",
        directly,
    );
}

fn by_url(cluster: &Cluster) {
    let pullpass = Pullpass::start(cluster, Ipv4Addr::LOCALHOST, RULES, &[]);
    let group = cluster.unique("by-url");
    Registration::pullpass(&group, Reach::Url(pullpass.url())).create(cluster);
    assert_reached(cluster, &cluster.api, &group);
}

fn through_service(cluster: &Cluster) {
    let pullpass = Pullpass::start(cluster, bridge(), RULES, &[]);
    let service = create_service(cluster, pullpass.port(), None);
    let group = cluster.unique("service");
    Registration::pullpass(&group, Reach::Service(service)).create(cluster);
    assert_reached(cluster, &cluster.api, &group);
}

fn directly(cluster: &Cluster) {
    let pullpass = Pullpass::start(cluster, bridge(), RULES, &[]);
    // A Service without an address of its own: nothing but its endpoints can be dialled.
    let service = create_service(cluster, pullpass.port(), Some("None"));
    let group = cluster.unique("direct");
    Registration::pullpass(&group, Reach::Service(service)).create(cluster);
    assert_reached(cluster, cluster.direct_api(), &group);
}

/// Creates Pods through `api` until one is injected: the API server may learn of a new
/// configuration, and kube-proxy of a new endpoint, a moment after they were made.
fn assert_reached(cluster: &Cluster, api: &Api, group: &str) {
    let namespace = Namespace::create(cluster, "reach", group);
    let pod = unscheduled_pod("app", &[("app", IMAGE)]);
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", namespace.name);
    wait_for("a Pod is injected", HAPPY, || {
        let created = api.post(&path, &pod)?;
        let list = pull_secrets_of(&created);
        if list == ["alpha"] {
            Ok(())
        } else {
            Err(format!("{list:?}"))
        }
    });
}

/// A Service without a selector in namespace `webhooks`, and one ready endpoint on the bridge.
fn create_service(cluster: &Cluster, port: u16, cluster_ip: Option<&str>) -> String {
    let name = cluster.unique("pullpass");
    // The namespace is shared by the trials of this file.
    drop(cluster.api.post(
        "/api/v1/namespaces",
        &json!({"metadata": {"name": WEBHOOKS}}),
    ));
    webhook::create_service(cluster, WEBHOOKS, &name, port, cluster_ip);
    name
}

fn bridge() -> Ipv4Addr {
    match BRIDGE_ADDRESS.parse() {
        Ok(IpAddr::V4(ip)) => ip,
        other => panic!("the bridge has an IPv4 address, not {other:?}"),
    }
}
