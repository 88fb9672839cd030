//! Programs that are built from Go modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::Launch;

/// A program that one `go install` builds.
#[derive(Debug)]
pub struct GoProgram {
    /// The command's name.
    name: &'static str,
    /// The module, as its `go.mod` calls itself.
    module: &'static str,
    /// Where in the module the command is; empty at its top.
    package: &'static str,
    /// Without the leading v.
    version: &'static str,
    /// What the linker writes into it, as name and value.
    stamps: &'static [(&'static str, &'static str)],
    /// Files of the module that are kept beside the program, with the names that they get.
    files: &'static [(&'static str, &'static str)],
}

/// Answers the names of Services.
pub static COREDNS: GoProgram = GoProgram {
    name: "coredns",
    module: "github.com/coredns/coredns",
    package: "",
    version: "1.14.7",
    stamps: &[],
    files: &[],
};

/// Installs charts.
pub static HELM: GoProgram = GoProgram {
    name: "helm",
    module: "helm.sh/helm/v3",
    package: "/cmd/helm",
    version: "3.22.0",
    // Without these `helm template` and `helm lint` believe in a Kubernetes of years ago.
    stamps: &[
        ("helm.sh/helm/v3/internal/version.version", "v3.22.0"),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor", "1"),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor", "36"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "36"),
    ],
    files: &[],
};

/// Turns Ingresses and `HTTPRoute`s into Envoy's configuration.
pub static CONTOUR: GoProgram = GoProgram {
    name: "contour",
    module: "github.com/projectcontour/contour",
    package: "/cmd/contour",
    version: "1.33.8",
    stamps: &[],
    files: &[("examples/contour/01-crds.yaml", "crds.yaml"), ("examples/gateway/00-crds.yaml", "gateway-crds.yaml")],
};

/// Measures pods for `kubectl top` and for autoscalers.
pub static METRICS_SERVER: GoProgram = GoProgram {
    name: "metrics-server",
    module: "sigs.k8s.io/metrics-server",
    package: "/cmd/metrics-server",
    version: "0.9.0",
    stamps: &[],
    files: &[],
};

/// Spoils connections on demand.
pub static TOXIPROXY: GoProgram = GoProgram {
    name: "toxiproxy",
    module: "github.com/Shopify/toxiproxy/v2",
    package: "/cmd/server",
    version: "2.12.0",
    stamps: &[],
    files: &[],
};

impl GoProgram {
    /// The built program.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        self.file(self.name).filter(|file| super::is_program(file))
    }

    /// A file that is kept beside it.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.home().ok()?.join(name))
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(super::cache()?.join(format!("{}-{}", self.name, self.version)))
    }

    /// Builds it into the cache.
    pub(super) fn build(&self) -> Result<()> {
        let Self { name, module, package, version, stamps, files } = self;
        super::make_whole(&self.home()?, |dir| {
            let flags = stamps.iter().flat_map(|(name, value)| [" -X ", name, "=", value]).collect::<String>();
            super::run(&format!("building {name} {version} (minutes, once)"), |log| {
                command(dir, log)
                    .env("GOBIN", dir)
                    .args(["install", "-trimpath", "-ldflags", &format!("-s -w{flags}")])
                    .args([format!("{module}{package}@v{version}")])
            })?;
            // Go names it after its directory.
            if let Some(built) = package.rsplit('/').next().filter(|built| !built.is_empty() && built != name) {
                fs::rename(dir.join(built), dir.join(name)).with_context(|| format!("no {built} was built"))?;
            }
            if files.is_empty() { Ok(()) } else { copy_files(dir, name, module, version, files) }
        })
    }
}

/// Files of a module of which no program is wanted.
#[derive(Debug)]
pub struct GoFiles {
    name: &'static str,
    module: &'static str,
    version: &'static str,
    files: &'static [(&'static str, &'static str)],
}

/// The kinds of the Prometheus Operator that our chart has objects of.
pub static PROMETHEUS_OPERATOR: GoFiles = GoFiles {
    name: "prometheus-operator",
    module: "github.com/prometheus-operator/prometheus-operator",
    version: "0.85.0",
    files: &[
        ("example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "servicemonitors.yaml"),
        ("example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml", "prometheusrules.yaml"),
    ],
};

/// The kind of the Gateway API that our chart has an object of.
pub static GATEWAY_API: GoFiles = GoFiles {
    name: "gateway-api",
    module: "sigs.k8s.io/gateway-api",
    version: "1.4.0",
    files: &[("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml", "httproutes.yaml")],
};

impl GoFiles {
    /// The files, when they are there.
    #[must_use]
    pub fn find(&self) -> Option<Vec<PathBuf>> {
        let home = self.home().ok()?;
        let files: Vec<PathBuf> = self.files.iter().map(|(_, to)| home.join(to)).collect();
        files.iter().all(|file| file.is_file()).then_some(files)
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(super::cache()?.join(format!("{}-{}", self.name, self.version)))
    }

    /// Copies them into the cache.
    pub(super) fn fetch(&self) -> Result<()> {
        super::make_whole(&self.home()?, |dir| copy_files(dir, self.name, self.module, self.version, self.files))
    }
}

fn copy_files(dir: &Path, name: &str, module: &str, version: &str, files: &[(&str, &str)]) -> Result<()> {
    let described = super::run(&format!("fetching the files of {name} {version}"), |log| {
        command(dir, log).args(["mod", "download", "-json", &format!("{module}@v{version}")])
    })?;
    let source = Path::new(described_path(&described, "Dir")?);
    for (from, to) in files {
        let from = source.join(from);
        // Not a copy of the file itself: that would be read-only, as all of Go's cache is.
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::write(dir.join(to), text).with_context(|| format!("cannot write {to}"))?;
    }
    Ok(())
}

/// The `go` command in this directory, free of what the user has set for other work.
pub(super) fn command(dir: &Path, log: PathBuf) -> Launch {
    let go = super::on_path("go").unwrap_or_else(|| "go".into());
    super::tool(&go, log)
        .dir(dir)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
}

/// A path from what `go mod download -json` printed.
pub(super) fn described_path<'a>(described: &'a str, field: &str) -> Result<&'a str> {
    let start = format!("\"{field}\": \"");
    described
        .lines()
        .find_map(|line| line.trim().strip_prefix(&start)?.strip_suffix("\","))
        .with_context(|| format!("go mod download named no {field}: {described}"))
}
