//! The fake CUDA driver: builds `tests/fake_driver` and the kernels with g++, and loads the result. What it is and what
//! it can do stands in `tests/fake_driver/README.md`.
#![allow(dead_code)] // each suite uses its own part

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

/// Whether a test run must not skip `rung` (`fake`, `compile` or `gpu`): `MAXMARGIN_REQUIRE` names it.
pub fn required(rung: &str) -> bool {
    std::env::var("MAXMARGIN_REQUIRE").is_ok_and(|rungs| rungs.split(',').any(|r| r.trim() == rung))
}

/// What a rung needs, or `None` if it cannot run here: then the reason is printed. Panics if the rung is [`required`].
pub fn rung<T>(rung: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) if required(rung) => panic!("rung {rung} is required, and cannot run: {reason}"),
        Err(reason) => {
            // Past the test harness, which would keep it to itself when the test passes.
            let _ = writeln!(std::io::stderr(), "rung {rung} skipped: {reason}");
            None
        }
    }
}

/// Whether kernels of the project are run under sanitizers, which takes minutes: where the fake driver is [`required`].
pub fn under_sanitizers() -> bool {
    let required = required("fake");
    if !required {
        let _ = writeln!(std::io::stderr(), "sanitizers skipped: MAXMARGIN_REQUIRE=fake runs the kernels under them");
    }
    required
}

/// How kernels are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelBuild {
    /// By the fake driver alone.
    Plain,
    /// By AddressSanitizer, and UndefinedBehaviorSanitizer's checks of alignment and of array bounds.
    Address,
    /// By ThreadSanitizer.
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

    /// The fake driver itself is watched by nobody, and the same for all.
    fn kernel_flags(self) -> &'static [&'static str] {
        match self {
            KernelBuild::Plain => &[],
            KernelBuild::Address => &["-O1", "-fsanitize=address,alignment,bounds", "-fno-sanitize-recover=all"],
            KernelBuild::Thread => &["-O1", "-fsanitize=thread"],
        }
    }

    /// What a process needs to load such a library: the sanitizer's own library has to be there first.
    fn environment(self) -> Result<Vec<(&'static str, String)>, String> {
        let preload = |library: &str| -> Result<String, String> {
            let output = Command::new(compiler()).arg(format!("-print-file-name={library}")).output();
            let path = String::from_utf8(output.map_err(|e| e.to_string())?.stdout).map_err(|e| e.to_string())?;
            let path = path.trim();
            if Path::new(path).is_absolute() { Ok(path.to_string()) } else { Err(format!("g++ has no {library}")) }
        };
        Ok(match self {
            KernelBuild::Plain => vec![],
            // Only kernels are looked at, and what they leave allocated is the test's.
            KernelBuild::Address => {
                vec![("LD_PRELOAD", preload("libasan.so")?), ("ASAN_OPTIONS", "detect_leaks=0".to_string())]
            }
            // Locks of Rust's standard library are invisible to ThreadSanitizer, so what code outside the kernels does
            // to memory must be too.
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

/// The folder with `libcuda.so.1`, the fake driver with the project's kernels: for `LD_LIBRARY_PATH`. The error says
/// why there is none. In a process that [`rerun`] describes it is the library of that process.
pub fn library() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || std::env::var(LIBRARY).map_or_else(|_| build("kernels", KernelBuild::Plain), |path| Ok(path.into()));
    BUILT.get_or_init(find).clone()
}

const LIBRARY: &str = "FAKE_CUDA_LIBRARY";

/// Whether this process was started as [`rerun`] says.
pub fn is_rerun() -> bool {
    std::env::var_os(LIBRARY).is_some()
}

/// Tests of this executable in a process of its own, with the kernels of a folder of the project, under a sanitizer:
/// `which` are arguments of the test harness. It ends without success if the sanitizer finds anything.
pub fn rerun(which: &[&str], kernels: &str, build: KernelBuild) -> Result<Command, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.args(which).arg("--nocapture");
    command.env(LIBRARY, self::build(kernels, build)?).envs(build.environment()?);
    Ok(command)
}

/// Builds `libcuda.so.1` with the kernels of a folder of the project; the folder that holds it.
pub fn build(kernels: &str, build: KernelBuild) -> Result<PathBuf, String> {
    build_set(kernels, build, None)
}

/// A kernel file with one expression changed.
pub struct AlteredKernel<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Text of the file, found in it once.
    pub from: &'a str,
    /// Text in its place.
    pub to: &'a str,
}

/// Builds `libcuda.so.1` with the project's kernels, one of them altered; the folder that holds it.
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
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake_driver");
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
                unit.source = path; // whose folder has the headers
                units.push(unit);
            }
        }
    }

    let compiled = in_parallel(&units, |unit| unit.compile(&driver))?;
    let library = result.join("libcuda.so.1");
    let linked = stamp(&units.iter().map(|u| u.stamp.as_bytes()).collect::<Vec<_>>());
    let done = result.join("stamp");
    if compiled.contains(&true) || fs::read_to_string(&done).ok().as_ref() != Some(&linked) {
        // A process that has the old library loaded keeps it.
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

/// Files of a folder with one of these extensions, by name.
fn texts(folder: &Path, extensions: &[&str]) -> Result<Vec<(PathBuf, String)>, String> {
    let wrong = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) {
            let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            files.push((path, text));
        }
    }
    files.sort();
    Ok(files)
}

/// One file to compile; compiled again only if its text, a header, the flags, the compiler or the CPU has changed.
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
        // What a kernel file's text is included from is not in the text itself.
        parts.push(fs::read_to_string(&source).unwrap_or_default());
        parts.extend(headers.iter().map(|(_, header)| header.clone()));
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        CompilationUnit { source, text, object, flags, stamp: stamp(&parts) }
    }

    /// Whether there was anything to do.
    fn compile(&self, driver: &Path) -> Result<bool, String> {
        let done = self.object.with_extension("stamp");
        if self.object.exists() && fs::read_to_string(&done).is_ok_and(|stamp| stamp == self.stamp) {
            return Ok(false);
        }
        let wrong = |e: std::io::Error| format!("{}: {e}", self.object.display());
        let unit = self.object.with_extension("cpp");
        fs::write(&unit, &self.text).map_err(wrong)?;
        let mut compile = Command::new(compiler());
        compile.args(FLAGS).args(&self.flags).arg("-I").arg(driver);
        compile.arg("-iquote").arg(self.source.parent().unwrap_or(driver));
        run(compile.arg(&unit).arg("-o").arg(&self.object))?;
        fs::write(&done, &self.stamp).map_err(wrong)?;
        Ok(true)
    }
}

/// A product and a sum are contracted only where a kernel says `fmaf`; then it is one instruction.
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

/// The source that includes a kernel file and registers its kernels by name. A kernel may be named like a function of
/// the C library: here its name has a prefix.
fn registration(path: &Path, text: &str) -> Result<String, String> {
    let wrong = |what: &str| format!("{}: {what}", path.display());
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
            let close = closing(after).ok_or_else(|| wrong("__launch_bounds__ without an end"))?;
            bounds = &after[..close];
            head = &after[close..];
        }
        let declaration = head.split_once('(').ok_or_else(|| wrong("a kernel without arguments' list"))?.0;
        let name = declaration.split_whitespace().next_back().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) || name == "void" {
            return Err(wrong(&format!("a kernel's name was expected, found {declaration:?}")));
        }
        renamed += &format!("#define {name} kernel_{name}\n");
        let bounds = if bounds.is_empty() { "()" } else { bounds };
        found += 1;
        registered += &format!(
            "static fake::Registered<kernel_{name}> registered_{name}(\"{name}\", \"{file}\", fake::bound{bounds});\n"
        );
    }
    if found == 0 || found != code.matches("__global__").count() {
        return Err(wrong("kernels are written `extern \"C\" __global__ void [__launch_bounds__(...)] name(...)`"));
    }
    let source = path.display();
    Ok(format!("#include \"host.h\"\n#include \"kernels.h\"\n{renamed}#include \"{source}\"\n{registered}"))
}

/// The place after the parenthesis that closes the first one.
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

/// `work` on each item, on as many threads as there are cores.
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

/// The fake driver in this process.
pub struct FakeDriver {
    library: Library,
    path: PathBuf,
}

/// Loads [`library`] into this process; a program that then looks for `libcuda.so.1` finds it. The process keeps it.
pub fn load() -> Result<&'static FakeDriver, String> {
    static LOADED: OnceLock<Result<FakeDriver, String>> = OnceLock::new();
    LOADED.get_or_init(|| FakeDriver::open(&library()?)).as_ref().map_err(Clone::clone)
}

impl FakeDriver {
    /// Loads the library of a folder.
    pub fn open(folder: &Path) -> Result<FakeDriver, String> {
        let path = folder.join("libcuda.so.1");
        // SAFETY: the library is ours; what it does while it is loaded is to read FAKE_CUDA and to list its kernels.
        let library = unsafe { unix::Library::open(Some(&path), unix::RTLD_NOW | unix::RTLD_GLOBAL) };
        let library = library.map_err(|e| format!("{}: {e:?}", path.display()))?.into();
        Ok(FakeDriver { library, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A function of the library, of the type that the caller knows it to have.
    ///
    /// # Safety
    /// `F` is that type.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: as the caller says.
        let symbol = unsafe { self.library.get::<F>(name) };
        *symbol.unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Sets options, as in `threads=reversed;memory=1000000`; `reset` first puts all of them and all errors back. They
    /// hold for the whole process: tests that run side by side need a lock of their own. Panics at an unknown option.
    pub fn set(&self, options: &str) {
        // SAFETY: the type is that of the definition in options.cpp.
        let set: unsafe extern "C" fn(*const c_char) -> *const c_char = unsafe { self.function("fake_cuda_set") };
        let text = CString::new(options).expect("options");
        // SAFETY: the text ends with a zero; what is returned is null or a text that lives until the next call.
        let wrong = unsafe { set(text.as_ptr()) };
        if !wrong.is_null() {
            // SAFETY: as above.
            panic!("{}", unsafe { CStr::from_ptr(wrong) }.to_string_lossy());
        }
    }

    /// The driver's calls since the last time, and the reports of failures, one a line.
    pub fn log(&self) -> Vec<String> {
        self.text("fake_cuda_log")
    }

    /// Every kernel a line: name, file, threads of `__launch_bounds__` (0 without), bytes of each argument.
    pub fn kernels(&self) -> Vec<String> {
        self.text("fake_cuda_kernels")
    }

    fn text(&self, function: &str) -> Vec<String> {
        // SAFETY: both functions are of this type and return a text that lives until the same thread calls again.
        let text = unsafe { CStr::from_ptr(self.function::<unsafe extern "C" fn() -> *const c_char>(function)()) };
        text.to_string_lossy().lines().map(String::from).collect()
    }
}
