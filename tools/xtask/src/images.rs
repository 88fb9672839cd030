//! `cargo xtask images`: builds the images without Docker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use couponry_testbed::process::Launch;
use couponry_testbed::{image, programs};

use crate::cargo;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The tag of the images.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    tag: String,
}

/// The version of all programs.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Cargo's profiles of the images, each with its directory.
const RELEASED: (&str, &str) = ("image", "image");
const DEBUG: (&str, &str) = ("dev", "debug");

/// The programs which have an image.
const COMPONENTS: [&str; 4] = ["operator", "issuer", "consumer", "redeemer"];

/// The linker section with the list of dependencies which `cargo auditable` writes.
const AUDITABLE_SECTION: &[u8] = b".dep-v0";

/// All images, and the directory of all programs.
#[derive(Debug)]
pub(crate) struct Images {
    images: Vec<Image>,
    programs: PathBuf,
}

/// An image as an archive.
#[derive(Debug)]
struct Image {
    /// Its full name, such as `docker.io/couponry/issuer:0.1.0`.
    name: String,
    /// The archive, in the format of `docker save`.
    archive: PathBuf,
    /// The program in it.
    program: PathBuf,
}

impl Images {
    /// The archives of the images, in the format of `docker save`.
    pub(crate) fn archives(&self) -> impl Iterator<Item = &Path> {
        self.images.iter().map(|image| image.archive.as_path())
    }

    /// The directory of all programs as the tests use them, for those without an image (`loadgen`, `kubectl-couponry`).
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let images = build_as(&options.tag, RELEASED)?;
    println!("\n{:<44} {:>9} {:>9}", "image", "program", "archive");
    for Image { name, archive, program } in images {
        let (program, size) = (size(&program)?, size(&archive)?);
        println!("{name:<44} {:>9} {:>9}   {}", megabytes(program), megabytes(size), archive.display());
    }
    println!("\nFor Docker: docker load --input FILE. For a cluster: cargo xtask cluster up --import FILE");
    Ok(ExitCode::SUCCESS)
}

/// Builds the images for the architecture of this machine, with the version as tag, and all programs as the tests use
/// them. Debug images compile in a third of the time.
pub(crate) fn build(debug: bool) -> Result<Images> {
    let profile = if debug { DEBUG } else { RELEASED };
    Ok(Images { images: build_as(VERSION, profile)?, programs: cargo::build_programs()? })
}

fn build_as(tag: &str, profile: (&str, &str)) -> Result<Vec<Image>> {
    programs::install_images()?;
    let root = cargo::root();
    let dockerfile = root.join("Dockerfile");
    let programs = build_programs(&dockerfile, profile)?;
    let home = programs.ancestors().nth(2).context("cannot determine the target directory")?.join("images");
    // buildah reads its complete context, so the context has only the programs.
    let context = home.join("programs");
    fs::create_dir_all(&context).with_context(|| format!("cannot create {}", context.display()))?;
    let revision = revision(&root);
    let copy = |component: &str| {
        let file = format!("couponry-{component}");
        let (source, program) = (programs.join(&file), context.join(&file));
        fs::copy(&source, &program).with_context(|| format!("cannot copy {}", source.display()))?;
        let is_auditable = fs::read(&program)?.windows(AUDITABLE_SECTION.len()).any(|bytes| bytes == AUDITABLE_SECTION);
        ensure!(is_auditable, "{} has no list of its dependencies", program.display());
        Ok((program, home.join(format!("{component}.tar"))))
    };
    // The Dockerfile copies all programs, so all are copied to the context before the first build.
    let files = COMPONENTS.iter().map(|component| copy(component)).collect::<Result<Vec<_>>>()?;
    let images = COMPONENTS.iter().zip(files).map(|(component, (program, archive))| {
        let name = format!("docker.io/couponry/{component}:{tag}");
        image::Build::new(&dockerfile, &context)
            .target(component)
            .argument("PROGRAMS", "prebuilt")
            .argument("VERSION", tag)
            .argument("REVISION", &revision)
            .save(&name, &archive)?;
        Ok(Image { name, archive, program })
    });
    images.collect()
}

/// Builds the programs as the Dockerfile does, and returns their directory.
fn build_programs(dockerfile: &Path, (profile, directory): (&str, &str)) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    add_target(&target)?;
    let auditable = auditable(dockerfile)?;
    eprintln!("building the programs for {target} (takes several minutes the first time)");
    let build = cargo::launch("cargo auditable")
        .env("PATH", cargo::path_with(&auditable)?)
        .env(format!("CC_{}", target.replace('-', "_")), "musl-gcc")
        .args(["auditable", "build", "--locked", "--profile", profile, "--target", &target])
        .args(COMPONENTS.iter().flat_map(|component| ["-p".to_owned(), format!("couponry-{component}")]));
    ensure!(cargo::in_foreground(build)?.success(), "cargo auditable build failed");
    let debug = cargo::built("debug")?;
    Ok(debug.with_file_name(target).join(directory))
}

/// Installs the standard library of this target if rustup manages the toolchain.
fn add_target(target: &str) -> Result<()> {
    let Some(rustup) = programs::on_path("rustup") else { return Ok(()) };
    let add = Launch::in_foreground("rustup", rustup).dir(cargo::root()).args(["--quiet", "target", "add", target]);
    ensure!(cargo::in_foreground(add)?.success(), "rustup target add {target} failed");
    Ok(())
}

/// `cargo-auditable` in the version of the Dockerfile.
fn auditable(dockerfile: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(dockerfile).with_context(|| format!("cannot read {}", dockerfile.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("ARG AUDITABLE_VERSION="));
    let version = version.context("the Dockerfile has no ARG AUDITABLE_VERSION")?;
    cargo::tool("cargo-auditable", version)
}

/// The current commit, or `unknown`.
fn revision(root: &Path) -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output();
    let commit =
        git.ok().filter(|git| git.status.success()).map(|git| String::from_utf8_lossy(&git.stdout).trim().to_owned());
    commit.filter(|commit| !commit.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

fn size(file: &Path) -> Result<u64> {
    Ok(file.metadata().with_context(|| format!("cannot read the size of {}", file.display()))?.len())
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
