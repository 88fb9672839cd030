//! Programs and files from Go modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cache::{cache, create_atomically};
use super::command::{run, tool};
use crate::path::{is_executable, on_path};
use crate::process::Launch;

/// A program which one `go install` builds.
#[derive(Debug)]
pub struct GoProgram {
    /// The name of the program.
    name: &'static str,
    /// The path of the module.
    module: &'static str,
    /// The path of the package in the module; empty for the root.
    package: &'static str,
    /// Without the leading v.
    version: &'static str,
    /// Variables which the linker sets, as name and value.
    stamps: &'static [(&'static str, &'static str)],
    /// Files of the module which are copied to the directory of the program, with their new names.
    files: &'static [(&'static str, &'static str)],
}

/// The DNS server for Services.
pub static COREDNS: GoProgram = GoProgram {
    name: "coredns",
    module: "github.com/coredns/coredns",
    package: "",
    version: "1.14.7",
    stamps: &[],
    files: &[],
};

/// Helm.
pub static HELM: GoProgram = GoProgram {
    name: "helm",
    module: "helm.sh/helm/v3",
    package: "/cmd/helm",
    version: "3.22.0",
    // The defaults of `helm template` and `helm lint` are an old Kubernetes.
    stamps: &[
        ("helm.sh/helm/v3/internal/version.version", "v3.22.0"),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor", "1"),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor", "36"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "36"),
    ],
    files: &[],
};

/// The ingress controller: it translates Ingresses and `HTTPRoute`s to the configuration of Envoy.
pub static CONTOUR: GoProgram = GoProgram {
    name: "contour",
    module: "github.com/projectcontour/contour",
    package: "/cmd/contour",
    version: "1.33.8",
    stamps: &[],
    files: &[("examples/contour/01-crds.yaml", "crds.yaml"), ("examples/gateway/00-crds.yaml", "gateway-crds.yaml")],
};

/// The resource metrics of pods, for `kubectl top` and for autoscalers.
pub static METRICS_SERVER: GoProgram = GoProgram {
    name: "metrics-server",
    module: "sigs.k8s.io/metrics-server",
    package: "/cmd/metrics-server",
    version: "0.9.0",
    stamps: &[],
    files: &[],
};

/// A TCP proxy which injects faults.
pub static TOXIPROXY: GoProgram = GoProgram {
    name: "toxiproxy",
    module: "github.com/Shopify/toxiproxy/v2",
    package: "/cmd/server",
    version: "2.12.0",
    stamps: &[],
    files: &[],
};

/// Checks and evaluates the rules of Prometheus.
pub static PROMTOOL: GoProgram = GoProgram {
    name: "promtool",
    module: "github.com/prometheus/prometheus",
    package: "/cmd/promtool",
    version: "0.316.0",
    stamps: &[],
    files: &[],
};

impl GoProgram {
    /// The built program.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        self.file(self.name).filter(|file| is_executable(file))
    }

    /// A file in its directory.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.home().ok()?.join(name))
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(cache()?.join(format!("{}-{}", self.name, self.version)))
    }

    /// Builds it into the cache.
    pub(super) fn build(&self) -> Result<()> {
        let Self { name, module, package, version, stamps, files } = self;
        create_atomically(&self.home()?, |dir| {
            let flags = stamps.iter().flat_map(|(name, value)| [" -X ", name, "=", value]).collect::<String>();
            run(&format!("building {name} {version} (minutes, once)"), |log| {
                command(dir, log)
                    .env("GOBIN", dir)
                    .args(["install", "-trimpath", "-ldflags", &format!("-s -w{flags}")])
                    .args([format!("{module}{package}@v{version}")])
            })?;
            // Go names the program after its package.
            if let Some(built) = package.rsplit('/').next().filter(|built| !built.is_empty() && built != name) {
                fs::rename(dir.join(built), dir.join(name))
                    .with_context(|| format!("go install did not build {built}"))?;
            }
            if files.is_empty() { Ok(()) } else { copy_files(dir, name, module, version, files) }
        })
    }
}

/// Files of a module without a program.
#[derive(Debug)]
pub struct GoFiles {
    name: &'static str,
    module: &'static str,
    version: &'static str,
    files: &'static [(&'static str, &'static str)],
}

/// The CRDs of the Prometheus Operator which the chart uses.
pub static PROMETHEUS_OPERATOR: GoFiles = GoFiles {
    name: "prometheus-operator",
    module: "github.com/prometheus-operator/prometheus-operator",
    version: "0.85.0",
    files: &[
        ("example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "servicemonitors.yaml"),
        ("example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml", "prometheusrules.yaml"),
    ],
};

/// The CRD of the Gateway API which the chart uses.
pub static GATEWAY_API: GoFiles = GoFiles {
    name: "gateway-api",
    module: "sigs.k8s.io/gateway-api",
    version: "1.4.0",
    files: &[("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml", "httproutes.yaml")],
};

impl GoFiles {
    /// The files, if all are present.
    #[must_use]
    pub fn find(&self) -> Option<Vec<PathBuf>> {
        let home = self.home().ok()?;
        let files: Vec<PathBuf> = self.files.iter().map(|(_, to)| home.join(to)).collect();
        files.iter().all(|file| file.is_file()).then_some(files)
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(cache()?.join(format!("{}-{}", self.name, self.version)))
    }

    /// Copies them into the cache.
    pub(super) fn download(&self) -> Result<()> {
        create_atomically(&self.home()?, |dir| copy_files(dir, self.name, self.module, self.version, self.files))
    }
}

fn copy_files(dir: &Path, name: &str, module: &str, version: &str, files: &[(&str, &str)]) -> Result<()> {
    let described = run(&format!("downloading the files of {name} {version}"), |log| {
        command(dir, log).args(["mod", "download", "-json", &format!("{module}@v{version}")])
    })?;
    let source = Path::new(described_path(&described, "Dir")?);
    for (from, to) in files {
        let from = source.join(from);
        // fs::copy would keep the read-only mode of Go's module cache.
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::write(dir.join(to), text).with_context(|| format!("cannot write {to}"))?;
    }
    Ok(())
}

/// The `go` command in this directory, without the settings of the user.
pub(super) fn command(dir: &Path, log: PathBuf) -> Launch {
    let go = on_path("go").unwrap_or_else(|| "go".into());
    tool(&go, log).dir(dir).env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOFLAGS", "-mod=mod -buildvcs=false")
}

/// A path in the output of `go mod download -json`.
pub(super) fn described_path<'a>(described: &'a str, field: &str) -> Result<&'a str> {
    let start = format!("\"{field}\": \"");
    described
        .lines()
        .find_map(|line| line.trim().strip_prefix(&start)?.strip_suffix("\","))
        .with_context(|| format!("the output of go mod download has no {field}: {described}"))
}
