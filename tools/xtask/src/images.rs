//! `cargo xtask images`: the programs as images, without Docker.

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
    /// The images' tag.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    tag: String,
}

/// The version of every program, and so of its image.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The parts of Couponry that have an image.
const PARTS: [&str; 3] = ["operator", "issuer", "consumer"];

/// The linker section that `cargo auditable` writes.
const LIST_OF_PARTS: &[u8] = b".dep-v0";

/// All images, and the programs that try them.
#[derive(Debug)]
pub(crate) struct Images {
    images: Vec<Image>,
    programs: PathBuf,
}

/// An image in a file.
#[derive(Debug)]
struct Image {
    /// Its whole name, such as `docker.io/couponry/issuer:0.1.0`.
    name: String,
    /// The archive, in the format of `docker save`.
    archive: PathBuf,
    /// The one program in it.
    program: PathBuf,
}

impl Images {
    /// One archive for each image, in the format of `docker save`.
    pub(crate) fn archives(&self) -> impl Iterator<Item = &Path> {
        self.images.iter().map(|image| image.archive.as_path())
    }

    /// The directory of all programs as the tests use them: `loadgen` and `kubectl-couponry`, which have no image.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let images = build_as(&options.tag)?;
    println!("\n{:<44} {:>9} {:>9}", "image", "program", "archive");
    for Image { name, archive, program } in images {
        let (size, whole) = (size(&program)?, size(&archive)?);
        println!("{name:<44} {:>9} {:>9}   {}", megabytes(size), megabytes(whole), archive.display());
    }
    println!("\nFor Docker: docker load --input FILE. For a cluster: cargo xtask cluster up --import FILE");
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs for this machine's kind of processor and makes their images, with their version as tag.
/// Builds all other programs too, as the tests do, which then are there already.
pub(crate) fn build() -> Result<Images> {
    Ok(Images { images: build_as(VERSION)?, programs: cargo::build_programs()? })
}

fn build_as(tag: &str) -> Result<Vec<Image>> {
    programs::install_images()?;
    let root = cargo::root();
    let dockerfile = root.join("Dockerfile");
    let programs = build_programs(&dockerfile)?;
    let home = programs.ancestors().nth(2).context("the programs are in no target directory")?.join("images");
    // buildah reads its whole context: it gets the programs and nothing else.
    let context = home.join("programs");
    fs::create_dir_all(&context).with_context(|| format!("cannot make {}", context.display()))?;
    let revision = revision(&root);
    let make = |part: &str| {
        let file = format!("couponry-{part}");
        let (from, program) = (programs.join(&file), context.join(&file));
        fs::copy(&from, &program).with_context(|| format!("cannot copy {}", from.display()))?;
        let listed = fs::read(&program)?.windows(LIST_OF_PARTS.len()).any(|bytes| bytes == LIST_OF_PARTS);
        ensure!(listed, "{} does not say what it is made of", program.display());
        Ok((program, home.join(format!("{part}.tar"))))
    };
    // The Dockerfile copies all of them.
    let files = PARTS.iter().map(|part| make(part)).collect::<Result<Vec<_>>>()?;
    let images = PARTS.iter().zip(files).map(|(part, (program, archive))| {
        let name = format!("docker.io/couponry/{part}:{tag}");
        image::Build::new(&dockerfile, &context)
            .target(part)
            .argument("PROGRAMS", "prebuilt")
            .argument("VERSION", tag)
            .argument("REVISION", &revision)
            .save(&name, &archive)?;
        Ok(Image { name, archive, program })
    });
    images.collect()
}

/// Builds the programs as the Dockerfile does, and returns their directory.
fn build_programs(dockerfile: &Path) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    add_target(&target)?;
    let auditable = auditable(dockerfile)?;
    eprintln!("building the programs for {target} (many minutes the first time)");
    let build = cargo::launch("cargo auditable")
        .env("PATH", cargo::path_with(&auditable)?)
        .env(format!("CC_{}", target.replace('-', "_")), "musl-gcc")
        .args(["auditable", "build", "--locked", "--profile", "image", "--target", &target])
        .args(PARTS.iter().flat_map(|part| ["-p".to_owned(), format!("couponry-{part}")]));
    ensure!(cargo::in_foreground(build)?.success(), "cargo auditable build failed");
    let debug = cargo::built("debug")?;
    Ok(debug.with_file_name(target).join("image"))
}

/// Gets Rust's own library for this target, where rustup is what brought Rust.
fn add_target(target: &str) -> Result<()> {
    let Some(rustup) = programs::on_path("rustup") else { return Ok(()) };
    let add = Launch::in_foreground("rustup", rustup).dir(cargo::root()).args(["--quiet", "target", "add", target]);
    ensure!(cargo::in_foreground(add)?.success(), "rustup target add {target} failed");
    Ok(())
}

/// `cargo-auditable` in the version that the Dockerfile names, kept beside the other programs.
fn auditable(dockerfile: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(dockerfile).with_context(|| format!("cannot read {}", dockerfile.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("ARG AUDITABLE_VERSION="));
    let version = version.context("the Dockerfile has no ARG AUDITABLE_VERSION")?;
    cargo::tool("cargo-auditable", version)
}

/// The commit, where there is one to name.
fn revision(root: &Path) -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output();
    let answer =
        git.ok().filter(|git| git.status.success()).map(|git| String::from_utf8_lossy(&git.stdout).trim().to_owned());
    answer.filter(|commit| !commit.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

fn size(file: &Path) -> Result<u64> {
    Ok(file.metadata().with_context(|| format!("cannot measure {}", file.display()))?.len())
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
