//! Build script: compiles `kernels/*.cu` with nvcc, one fatbin a file, and writes the table of kernels of the binary
//! and the header `abi.cuh` that the kernels share with Rust. Sets `MAXMARGIN_COMMIT`.
//!
//! Without nvcc the build succeeds with a warning. The binary then has no device code, and refuses a GPU with a message
//! that says so. The build needs no GPU. A file is compiled again only if it, a header, a flag or the compiler changed.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "src/device/cuda/abi/header.rs"]
mod header;

const FLAGS: &[&str] = &[
    "-O3",
    "-std=c++17",
    "--fatbin",
    "-lineinfo",
    "-fmad=false",
    "-Werror=all-warnings",
    "-compress-mode=size",
    "-Xptxas=-v,-warn-spills",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_80,code=compute_80",
];

/// One `extern "C" __global__` function, as its source declares it.
struct KernelDeclaration {
    name: String,
    /// Type of each argument: `pointer`, or the type's name.
    params: Vec<String>,
}

/// Resources of a kernel on one architecture, as ptxas reports them.
struct PtxasUsage {
    kernel: String,
    arch: String,
    registers: u32,
    shared: u32,
    /// Bytes of a thread's stack frame, which is in local memory.
    stack: u32,
    spilled: u32,
}

/// Kernels that may have a stack frame, with its bytes. Formulas call `cosf`, which multiplies an argument beyond
/// 105615 by the words of 2 / pi and stores the products in local memory; no other argument uses it.
const STACK_FRAMES: &[(&str, u32)] = &[("map", 32), ("map_u32", 32), ("reduce_extreme", 32), ("reduce_sum", 32)];

/// Sets `MAXMARGIN_COMMIT`, which records of evaluations name. It stays unset without git or without its folder.
fn set_commit() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists());
    if let (Some(commit), Some(log)) = (git(&["rev-parse", "--short=12", "HEAD"]), log) {
        println!("cargo::rerun-if-changed={log}");
        println!("cargo::rustc-env=MAXMARGIN_COMMIT={commit}");
    }
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=src/device/cuda/abi");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    set_commit();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (sources, mut headers) = sources();
    let abi = header::text();
    fs::write(out.join("abi.cuh"), &abi).expect("OUT_DIR is writable");
    headers += &abi;
    let nvcc = find_nvcc();
    if nvcc.is_none() {
        println!(
            "cargo::warning=nvcc was not found: this binary cannot use a GPU. `scripts/setup-nvcc` installs nvcc into the \
             project; NVCC or CUDA_HOME names another one"
        );
    }
    let version = nvcc.as_ref().map(|nvcc| version(nvcc));
    let usages: Vec<Vec<PtxasUsage>> = match (&nvcc, &version) {
        (Some(nvcc), Some(version)) => compile_all(nvcc, version, &sources, &headers, &out),
        _ => sources.iter().map(|_| Vec::new()).collect(),
    };
    fs::write(out.join("images.rs"), table(&sources, &usages, version.as_deref(), &out)).expect("OUT_DIR is writable");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Paths of the kernel files, sorted, and the text of all headers.
fn sources() -> (Vec<PathBuf>, String) {
    let entries = fs::read_dir("kernels").expect("kernels/ is part of the source");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("kernels/ can be listed").path()).collect();
    paths.sort();
    let of =
        |kind: &str| paths.iter().filter(|p| p.extension().is_some_and(|e| e == kind)).cloned().collect::<Vec<_>>();
    (of("cu"), of("cuh").iter().map(|path| read(path)).collect())
}

/// Path of nvcc, from the first of: `$NVCC`, `scripts/setup-nvcc`, `$CUDA_HOME`, `$CUDA_PATH`, `PATH`, the usual
/// folder.
fn find_nvcc() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(nvcc) = set("NVCC") {
        assert!(nvcc.is_file(), "NVCC: {} is not a file", nvcc.display());
        return Some(nvcc);
    }
    let installed = fs::read_to_string("kernels/.nvcc").ok().map(|path| PathBuf::from(path.trim()));
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set).map(|home| home.join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc")).collect::<Vec<_>>();
    let usual = PathBuf::from("/usr/local/cuda/bin/nvcc");
    installed.into_iter().chain(homes).chain(on_path).chain([usual]).find(|nvcc| nvcc.is_file())
}

fn version(nvcc: &Path) -> String {
    let output = Command::new(nvcc).arg("--version").output().unwrap_or_else(|e| panic!("{}: {e}", nvcc.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    release.unwrap_or_else(|| panic!("{} --version: no release in {text:?}", nvcc.display())).to_owned()
}

/// Compiles the files that changed, in parallel.
fn compile_all(nvcc: &Path, version: &str, sources: &[PathBuf], headers: &str, out: &Path) -> Vec<Vec<PtxasUsage>> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).max(1);
    let mut results: Vec<Result<Vec<PtxasUsage>, String>> = Vec::new();
    for group in sources.chunks(jobs) {
        let compiled: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> =
                group.iter().map(|source| scope.spawn(move || compile(nvcc, version, source, headers, out))).collect();
            running.into_iter().map(|job| job.join().expect("a compilation ends")).collect()
        });
        results.extend(compiled);
    }
    let failures: Vec<&str> = results.iter().filter_map(|r| r.as_ref().err().map(String::as_str)).collect();
    if !failures.is_empty() {
        eprintln!("{}", failures.join("\n"));
        std::process::exit(1);
    }
    results.into_iter().flatten().collect()
}

/// Compiles one file to a fatbin, unless a stamp says that nothing changed. The log beside it has the stamp and the
/// report of ptxas.
fn compile(nvcc: &Path, version: &str, source: &Path, headers: &str, out: &Path) -> Result<Vec<PtxasUsage>, String> {
    let text = read(source);
    let mut hasher = DefaultHasher::new();
    (&text, headers, FLAGS, version).hash(&mut hasher);
    let stamp = format!("{:016x}", hasher.finish());
    let (image, log) = (fatbin(source, out), fatbin(source, out).with_extension("log"));
    let recorded = fs::read_to_string(&log).unwrap_or_default();
    let report = match recorded.strip_prefix(&format!("{stamp}\n")) {
        Some(report) if image.is_file() => report.to_owned(),
        _ => {
            let output = Command::new(nvcc)
                .args(FLAGS)
                .arg("-I")
                .arg(out)
                .arg("-o")
                .arg(&image)
                .arg(source)
                .output()
                .map_err(|e| format!("{}: {e}", nvcc.display()))?;
            let report = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() {
                return Err(format!("{}: nvcc failed\n{report}", source.display()));
            }
            fs::write(&log, format!("{stamp}\n{report}")).map_err(|e| format!("{}: {e}", log.display()))?;
            report
        }
    };
    let usages = usages(&report);
    match usages.iter().find_map(local_memory) {
        Some(refusal) => {
            let _ = fs::remove_file(&log);
            Err(format!("{}: {refusal}", source.display()))
        }
        None => Ok(usages),
    }
}

/// Error message for a kernel whose threads use local memory: registers that spill, or a stack frame larger than
/// [`STACK_FRAMES`] allows.
fn local_memory(PtxasUsage { kernel, arch, stack, spilled, .. }: &PtxasUsage) -> Option<String> {
    let allowed = STACK_FRAMES.iter().find(|(name, _)| name == kernel).map_or(0, |(_, bytes)| *bytes);
    if *spilled > 0 {
        return Some(format!(
            "{kernel} spills {spilled} bytes of registers on {arch}: give it a smaller tile or more threads"
        ));
    }
    (*stack > allowed).then(|| {
        format!(
            "{kernel} has a stack frame of {stack} bytes on {arch}; {allowed} are allowed: an array in local memory is \
             indexed by a number that is known only at run time. Unroll the loop around it, move the array to shared \
             memory, or make it a `const __grid_constant__` parameter. If none is possible, add the kernel to \
             STACK_FRAMES in build.rs with the reason"
        )
    })
}

fn fatbin(source: &Path, out: &Path) -> PathBuf {
    out.join(source.file_stem().expect("a file has a name")).with_extension("fatbin")
}

/// Parses ptxas's report: `Compiling entry function 'NAME' for 'ARCH'`, then the stack frame and spills, then registers
/// and shared memory.
fn usages(report: &str) -> Vec<PtxasUsage> {
    let number = |line: &str, after: &str| -> u32 {
        let before = line.split(after).next().unwrap_or_default().trim_end();
        before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let mut found: Vec<PtxasUsage> = Vec::new();
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut quoted = rest.split('\'');
            let kernel = quoted.next().unwrap_or_default().to_owned();
            let arch = quoted.nth(1).unwrap_or_default().to_owned();
            found.push(PtxasUsage { kernel, arch, registers: 0, shared: 0, stack: 0, spilled: 0 });
        } else if let Some(last) = found.last_mut() {
            if line.contains("bytes spill stores") {
                last.stack = number(line, " bytes stack frame");
                last.spilled = number(line, " bytes spill stores") + number(line, " bytes spill loads");
            } else if line.contains(" registers") {
                last.registers = number(line, " registers");
                last.shared = if line.contains(" bytes smem") { number(line, " bytes smem") } else { 0 };
            }
        }
    }
    found
}

/// Words of an argument's declaration that do not belong to its type.
const QUALIFIERS: &[&str] = &["const", "__grid_constant__"];

/// Kernels that a source declares: `extern "C" __global__ ... NAME(ARGUMENTS) {`.
fn kernels(source: &Path) -> Vec<KernelDeclaration> {
    let text: String = read(source).lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::new(),
        |mut text, line| {
            text += line;
            text.push(' ');
            text
        },
    );
    let declared = text.split("extern \"C\" __global__ void").skip(1);
    declared
        .map(|rest| {
            let mut rest = rest.trim_start();
            if let Some(bounds) = rest.strip_prefix("__launch_bounds__") {
                rest = bounds.split_once(')').expect("__launch_bounds__ is closed").1.trim_start();
            }
            let (name, rest) = rest.split_once('(').expect("a kernel has arguments");
            let (arguments, _) = rest.split_once(')').expect("arguments are closed");
            let params = arguments.split(',').map(|argument| {
                let words: Vec<&str> = argument.split_whitespace().filter(|w| !QUALIFIERS.contains(w)).collect();
                if argument.contains('*') { "pointer".to_owned() } else { words[0].to_owned() }
            });
            KernelDeclaration { name: name.trim().to_owned(), params: params.collect() }
        })
        .collect()
}

/// Text of `images.rs`: the fatbin of each file, and each kernel with its arguments and resources.
fn table(sources: &[PathBuf], usages: &[Vec<PtxasUsage>], version: Option<&str>, out: &Path) -> String {
    let mut text = format!(
        "/// Version of nvcc that compiled the kernels; `None`: the binary has no device code.\npub static NVCC: Option<&str> = {version:?};\n"
    );
    let targets: Vec<&str> = FLAGS.iter().filter_map(|flag| flag.split(",code=").nth(1)).collect();
    let _ = writeln!(
        text,
        "/// Targets that they are compiled for: architectures, and PTX for later ones.\n\
         pub static TARGETS: &[&str] = &{targets:?};"
    );
    text += "pub static IMAGES: &[KernelImage] = &[\n";
    for source in sources {
        let file = source.file_name().expect("a file has a name").to_string_lossy();
        let bytes = match version {
            Some(_) => format!("&Aligned(*include_bytes!({:?})).0", fatbin(source, out)),
            None => "NO_IMAGE".to_owned(),
        };
        let _ = writeln!(text, "    KernelImage {{ file: {file:?}, bytes: {bytes} }},");
    }
    text += "];\n/// Every kernel, in the order of the files.\npub static KERNELS: &[KernelInfo] = &[
";
    for (image, (source, usages)) in sources.iter().zip(usages).enumerate() {
        for kernel in kernels(source) {
            let own = usages.iter().filter(|usage| usage.kernel == kernel.name);
            let usage: Vec<String> = own
                .map(|PtxasUsage { arch, registers, shared, stack, .. }| {
                    format!(
                        "KernelUsage {{ arch: {arch:?}, registers: {registers}, shared: {shared}, stack: {stack} }}"
                    )
                })
                .collect();
            let KernelDeclaration { name, params } = kernel;
            let _ = writeln!(
                text,
                "    KernelInfo {{ name: {name:?}, image: {image}, params: &{params:?}, usage: &[{}] }},",
                usage.join(", ")
            );
        }
    }
    text + "];\n"
}
