//! The fake CUDA driver: builds `tests/fake_driver` and the kernels with g++, and loads the library into the process.
//! `tests/fake_driver/README.md` describes the driver and its options.
//!
//! This file decides which tests are skipped: [`rung`] those that cannot run on this machine, [`runs_long_tests`] those
//! that take long. Both print the reason, and `MAXMARGIN_REQUIRE` forbids both.
#![allow(dead_code)] // each suite uses some of it

use std::ffi::{CStr, CString, c_char};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use libloading::Library;
use libloading::os::unix;

/// True if `MAXMARGIN_REQUIRE` names `rung` (`fake`, `compile` or `gpu`), so that its tests must not be skipped.
pub fn required(rung: &str) -> bool {
    std::env::var("MAXMARGIN_REQUIRE").is_ok_and(|rungs| rungs.split(',').any(|r| r.trim() == rung))
}

/// Returns the result that a rung needs. If it could not be found, prints the reason and returns `None`, or panics if
/// the rung is [`required`].
pub fn rung<T>(rung: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) if required(rung) => panic!("rung {rung} is required, and cannot run: {reason}"),
        Err(reason) => {
            // `eprintln!` would be captured by the test harness and dropped when the test passes.
            let _ = writeln!(std::io::stderr(), "rung {rung} skipped: {reason}");
            None
        }
    }
}

/// True if tests that take long run: where the fake driver or a GPU is [`required`], as in `.ci/run`. Otherwise prints
/// that `tests` are skipped.
pub fn runs_long_tests(tests: &str) -> bool {
    let runs = required("fake") || required("gpu");
    if !runs {
        let _ = writeln!(std::io::stderr(), "{tests} skipped: MAXMARGIN_REQUIRE=fake runs them, as .ci/run does");
    }
    runs
}

/// Instrumentation of the kernels. The fake driver itself is never instrumented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelBuild {
    /// None: the fake driver's own checks alone.
    Plain,
    /// AddressSanitizer, and UndefinedBehaviorSanitizer's checks of alignment and array bounds.
    Address,
    /// ThreadSanitizer.
    Thread,
}

impl KernelBuild {
    fn name(self) -> &'static str {
        match self {
            KernelBuild::Plain => "plain",
            KernelBuild::Address => "address",
            KernelBuild::Thread => "thread",
        }
    }

    /// Compiler and linker flags of the kernels.
    fn kernel_flags(self) -> &'static [&'static str] {
        match self {
            KernelBuild::Plain => &[],
            KernelBuild::Address => &["-O1", "-fsanitize=address,alignment,bounds", "-fno-sanitize-recover=all"],
            KernelBuild::Thread => &["-O1", "-fsanitize=thread"],
        }
    }

    /// Environment of a process that loads the kernels: the sanitizer's runtime library must be loaded first.
    fn environment(self) -> Result<Vec<(&'static str, String)>, String> {
        let preload = |library: &str| -> Result<String, String> {
            let output = Command::new(compiler()).arg(format!("-print-file-name={library}")).output();
            let path = String::from_utf8(output.map_err(|e| e.to_string())?.stdout).map_err(|e| e.to_string())?;
            let path = path.trim();
            if Path::new(path).is_absolute() { Ok(path.to_string()) } else { Err(format!("g++ has no {library}")) }
        };
        Ok(match self {
            KernelBuild::Plain => vec![],
            // Leaks are not looked for: kernels allocate nothing, and tests keep the driver until the process ends.
            KernelBuild::Address => {
                vec![("LD_PRELOAD", preload("libasan.so")?), ("ASAN_OPTIONS", "detect_leaks=0".to_string())]
            }
            // ThreadSanitizer does not see the locks of Rust's standard library, so it must ignore memory accesses
            // outside the kernels.
            KernelBuild::Thread => vec![
                ("LD_PRELOAD", preload("libtsan.so")?),
                (
                    "TSAN_OPTIONS",
                    "ignore_noninstrumented_modules=1 ignore_interceptors_accesses=1 exitcode=66".to_string(),
                ),
            ],
        })
    }
}

/// Folder with `libcuda.so.1`, the fake driver with the project's kernels, for `LD_LIBRARY_PATH`. In a [`rerun`] it is
/// the folder with that process's library.
///
/// # Errors
/// The reason why it cannot be built.
pub fn library() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || std::env::var(LIBRARY).map_or_else(|_| build("kernels", KernelBuild::Plain), |path| Ok(path.into()));
    BUILT.get_or_init(find).clone()
}

const LIBRARY: &str = "FAKE_CUDA_LIBRARY";

/// Folder for what is built. Cargo names it for tests and benchmarks; examples, for which it does not, share it.
const TMP: &str = match option_env!("CARGO_TARGET_TMPDIR") {
    Some(folder) => folder,
    None => concat!(env!("CARGO_MANIFEST_DIR"), "/target/tmp"),
};

/// True in a process that [`rerun`] describes.
pub fn is_rerun() -> bool {
    std::env::var_os(LIBRARY).is_some()
}

/// Command that runs tests of this executable again in a process of their own, with the kernels of the folder `kernels`
/// of the project under a sanitizer. `tests` are arguments of the test harness. The process fails if the sanitizer
/// finds a defect.
pub fn rerun(tests: &[&str], kernels: &str, build: KernelBuild) -> Result<Command, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.args(tests).arg("--nocapture");
    command.env(LIBRARY, self::build(kernels, build)?).envs(build.environment()?);
    Ok(command)
}

/// Builds `libcuda.so.1` with the kernels of a folder of the project, and returns the folder of the library.
pub fn build(kernels: &str, build: KernelBuild) -> Result<PathBuf, String> {
    build_set(kernels, build, None)
}

/// A change of one expression in a kernel file.
pub struct AlteredKernel<'a> {
    /// Name of the file.
    pub file: &'a str,
    /// Text that occurs in the file exactly once.
    pub from: &'a str,
    /// Text that replaces it.
    pub to: &'a str,
}

/// Builds `libcuda.so.1` with the project's kernels, one of them altered, and returns the folder of the library.
pub fn build_altered(altered: &AlteredKernel) -> Result<PathBuf, String> {
    build_set("kernels", KernelBuild::Plain, Some(altered))
}

fn build_set(kernels: &str, build: KernelBuild, altered: Option<&AlteredKernel>) -> Result<PathBuf, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("the fake driver is written for Linux on x86-64".to_string());
    }
    let version = Command::new(compiler()).arg("--version").output();
    let version = version.map_err(|e| format!("{}: {e}", compiler()))?.stdout;
    let set = kernels.replace('/', "-");
    let set = format!("{set}-{}", build.name());
    let folder = Path::new(TMP).join("fake_driver");
    let objects = folder.join("objects");
    let result = folder.join(if altered.is_some() { format!("{set}-altered") } else { set.clone() });
    for made in [&objects, &result] {
        fs::create_dir_all(made).map_err(|e| format!("{}: {e}", made.display()))?;
    }
    let lock = folder.join("lock");
    let lock = File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(|e| format!("lock: {e}"))?;

    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_driver");
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join(kernels);
    let machine = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let machine = machine.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let base = stamp(&[&version[..], machine.as_bytes()]);

    let mut units = Vec::new();
    let headers = texts(&driver, &["h"])?;
    for (path, text) in texts(&driver, &["cpp"])? {
        units.push(CompilationUnit::new(&objects, "driver", &path, text, &[], base.clone(), &headers));
    }
    let mut headers = headers;
    headers.extend(texts(&kernels, &["cuh", "h"])?);
    headers.extend(texts(Path::new(GENERATED_HEADERS), &["cuh"])?);
    let sources = texts(&kernels, &["cu"])?;
    if sources.is_empty() {
        return Err(format!("no kernels in {}", kernels.display()));
    }
    for (path, text) in sources {
        let flags = [build.kernel_flags(), &["-DMAXMARGIN_HOST"]].concat();
        match altered.filter(|altered| path.ends_with(altered.file)) {
            None => {
                let text = registration(&path, &text)?;
                units.push(CompilationUnit::new(&objects, &set, &path, text, &flags, base.clone(), &headers));
            }
            Some(AlteredKernel { from, to, .. }) => {
                if text.matches(from).count() != 1 {
                    return Err(format!("{}: expected {from:?} once", path.display()));
                }
                let text = text.replace(from, to);
                let copy = result.join(path.file_name().unwrap_or_default());
                fs::write(&copy, &text).map_err(|e| format!("{}: {e}", copy.display()))?;
                let unit = registration(&copy, &text)?;
                let mut unit = CompilationUnit::new(&objects, "altered", &copy, unit, &flags, base.clone(), &headers);
                unit.source = path; // its folder has the headers
                units.push(unit);
            }
        }
    }

    let compiled = in_parallel(&units, |unit| unit.compile(&driver))?;
    let library = result.join("libcuda.so.1");
    let linked = stamp(&units.iter().map(|u| u.stamp.as_bytes()).collect::<Vec<_>>());
    let done = result.join("stamp");
    if compiled.contains(&true) || fs::read_to_string(&done).ok().as_ref() != Some(&linked) {
        // A rename leaves processes that have loaded the old library undisturbed.
        let fresh = result.join("fresh.so");
        let mut link = Command::new(compiler());
        link.args(["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", "-pthread", "-o"]).arg(&fresh);
        link.args(build.kernel_flags()).args(units.iter().map(|u| &u.object)).arg("-ldl");
        run(&mut link)?;
        fs::rename(&fresh, &library).map_err(|e| e.to_string())?;
        fs::write(&done, linked).map_err(|e| e.to_string())?;
    }
    drop(lock);
    Ok(result)
}

/// The folder of `abi.cuh`, which `build.rs` makes.
const GENERATED_HEADERS: &str = env!("OUT_DIR");

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}\n{errors}", output.status)) }
}

fn stamp(parts: &[impl AsRef<[u8]>]) -> String {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        part.as_ref().hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Paths and texts of a folder's files with one of these extensions, sorted by name.
fn texts(folder: &Path, extensions: &[&str]) -> Result<Vec<(PathBuf, String)>, String> {
    let error = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) {
            let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            files.push((path, text));
        }
    }
    files.sort();
    Ok(files)
}

/// One C++ file, compiled again only if its text, a header, the flags, the compiler or the CPU has changed.
struct CompilationUnit {
    source: PathBuf,
    text: String,
    object: PathBuf,
    flags: Vec<String>,
    stamp: String,
}

impl CompilationUnit {
    fn new(
        objects: &Path,
        set: &str,
        source: &Path,
        text: String,
        flags: &[&str],
        base: String,
        headers: &[(PathBuf, String)],
    ) -> CompilationUnit {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let object = objects.join(format!("{set}_{stem}.o"));
        let source = source.to_path_buf();
        let mut parts = vec![base, text.clone(), flags.join(" "), FLAGS.join(" ")];
        // `text` includes the kernel file, so the kernel file's own text is a part of the stamp, too.
        parts.push(fs::read_to_string(&source).unwrap_or_default());
        parts.extend(headers.iter().map(|(_, header)| header.clone()));
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        CompilationUnit { source, text, object, flags, stamp: stamp(&parts) }
    }

    /// Compiles the file if it has changed; returns true if it did.
    fn compile(&self, driver: &Path) -> Result<bool, String> {
        let done = self.object.with_extension("stamp");
        if self.object.exists() && fs::read_to_string(&done).is_ok_and(|stamp| stamp == self.stamp) {
            return Ok(false);
        }
        let error = |e: std::io::Error| format!("{}: {e}", self.object.display());
        let unit = self.object.with_extension("cpp");
        fs::write(&unit, &self.text).map_err(error)?;
        let mut compile = Command::new(compiler());
        compile.args(FLAGS).args(&self.flags).arg("-I").arg(driver).arg("-I").arg(GENERATED_HEADERS);
        compile.arg("-iquote").arg(self.source.parent().unwrap_or(driver));
        run(compile.arg(&unit).arg("-o").arg(&self.object))?;
        fs::write(&done, &self.stamp).map_err(error)?;
        Ok(true)
    }
}

/// Flags of every file. As with nvcc's `-fmad=false`, a product and a sum are contracted only where a kernel calls
/// `fmaf`.
const FLAGS: [&str; 13] = [
    "-std=c++20",
    "-O3",
    "-g1",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-Wno-unknown-pragmas",
    "-c",
];

/// Source that includes a kernel file and registers its kernels by name. Each kernel gets a prefix, because it may have
/// the name of a C library function.
fn registration(path: &Path, text: &str) -> Result<String, String> {
    let error = |what: &str| format!("{}: {what}", path.display());
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let mut renamed = String::new();
    let mut registered = String::new();
    let mut found = 0;
    let code = without_comments(text);
    let mut rest = code.as_str();
    while let Some(start) = rest.find("extern \"C\"") {
        rest = &rest[start + "extern \"C\"".len()..];
        let Some(mut head) = rest.trim_start().strip_prefix("__global__") else { continue };
        let mut bounds = "";
        if let Some((before, after)) = head.split_once("__launch_bounds__")
            && !before.contains('(')
        {
            let close = closing(after).ok_or_else(|| error("__launch_bounds__ without an end"))?;
            bounds = &after[..close];
            head = &after[close..];
        }
        let declaration = head.split_once('(').ok_or_else(|| error("a kernel without a parameter list"))?.0;
        let name = declaration.split_whitespace().next_back().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) || name == "void" {
            return Err(error(&format!("expected a kernel's name, found {declaration:?}")));
        }
        renamed += &format!("#define {name} kernel_{name}\n");
        let bounds = if bounds.is_empty() { "()" } else { bounds };
        found += 1;
        registered += &format!(
            "static fake::Registered<kernel_{name}> registered_{name}(\"{name}\", \"{file}\", fake::bound{bounds});\n"
        );
    }
    if found == 0 || found != code.matches("__global__").count() {
        return Err(error(
            "expected kernels declared as `extern \"C\" __global__ void [__launch_bounds__(...)] name(...)`",
        ));
    }
    let source = path.display();
    Ok(format!("#include \"host.h\"\n#include \"kernels.h\"\n{renamed}#include \"{source}\"\n{registered}"))
}

/// Index after the parenthesis that closes the first one.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(i + 1),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        code += &rest[..start];
        let end = if rest[start..].starts_with("//") { "\n" } else { "*/" };
        let after = rest[start..].find(end).map_or(rest.len(), |at| start + at + end.len());
        code.push('\n');
        rest = &rest[after..];
    }
    code + rest
}

/// Calls `work` on each item, on as many threads as there are cores.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R, String> + Sync) -> Result<Vec<R>, String> {
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let turn = || std::iter::from_fn(|| items.get(next.fetch_add(1, Ordering::Relaxed))).map(&work).collect();
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(turn)).collect();
        let done: Result<Vec<Vec<R>>, String> = threads.into_iter().map(|t| t.join().expect("compiles")).collect();
        done.map(|lists| lists.into_iter().flatten().collect())
    })
}

/// The fake driver, loaded into this process.
pub struct FakeDriver {
    library: Library,
    path: PathBuf,
}

/// Loads [`library`] into this process, where the CUDA device then finds it as `libcuda.so.1`. It stays loaded.
pub fn load() -> Result<&'static FakeDriver, String> {
    static LOADED: OnceLock<Result<FakeDriver, String>> = OnceLock::new();
    LOADED.get_or_init(|| FakeDriver::open(&library()?)).as_ref().map_err(Clone::clone)
}

impl FakeDriver {
    /// Loads the library in a folder.
    pub fn open(folder: &Path) -> Result<FakeDriver, String> {
        let path = folder.join("libcuda.so.1");
        // SAFETY: the library is the project's; its initializers read FAKE_CUDA and register the kernels.
        let library = unsafe { unix::Library::open(Some(&path), unix::RTLD_NOW | unix::RTLD_GLOBAL) };
        let library = library.map_err(|e| format!("{}: {e:?}", path.display()))?.into();
        Ok(FakeDriver { library, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Function of the library.
    ///
    /// # Safety
    /// `F` must be the function's type.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the caller guarantees that `F` is the function's type.
        let symbol = unsafe { self.library.get::<F>(name) };
        *symbol.unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Sets options, as in `threads=reversed;memory=1000000`; `reset` restores the defaults and clears all errors.
    /// Options hold for the whole process, so tests that run in parallel need a lock. Panics at an unknown option.
    pub fn set(&self, options: &str) {
        // SAFETY: options.cpp defines the function with this type.
        let set: unsafe extern "C" fn(*const c_char) -> *const c_char = unsafe { self.function("fake_cuda_set") };
        let text = CString::new(options).expect("options");
        // SAFETY: the text ends with a zero; the function returns null or a text that lives until the next call.
        let message = unsafe { set(text.as_ptr()) };
        if !message.is_null() {
            // SAFETY: the pointer is not null, and the text lives until the next call.
            panic!("{}", unsafe { CStr::from_ptr(message) }.to_string_lossy());
        }
    }

    /// Calls of the driver and reports of failures since the last call of `log`, one a line.
    pub fn log(&self) -> Vec<String> {
        self.text("fake_cuda_log")
    }

    /// One line for each kernel: name, file, threads of `__launch_bounds__` (0 without it), bytes of each argument.
    pub fn kernels(&self) -> Vec<String> {
        self.text("fake_cuda_kernels")
    }

    fn text(&self, function: &str) -> Vec<String> {
        // SAFETY: both functions have this type and return a text that lives until the same thread calls again.
        let text = unsafe { CStr::from_ptr(self.function::<unsafe extern "C" fn() -> *const c_char>(function)()) };
        text.to_string_lossy().lines().map(String::from).collect()
    }
}
