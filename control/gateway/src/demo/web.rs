//! The web servers: nginx, one process each, which answers with the name of its instance.

use super::sites::{Place, WEB};
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::sites::{Sites, Target};
use sluice_perf::lab::{LabError, NetNs, Process, Program, tools};
use sluice_perf::traffic::tcp;
use std::fs::{self, File};
use std::io::{Read, copy};
use std::path::PathBuf;

/// Name and bytes of the file that is transferred.
const FILE: &str = "file";
const FILE_LEN: u64 = 100_000_000;

/// What the servers serve.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    pub(super) sha256: String,
}

impl Files {
    /// Makes a file of random bytes and its hash.
    pub(super) fn new(scratch: &Scratch) -> Result<Self, LabError> {
        let directory = scratch.directory("files")?;
        let path = directory.join(FILE);
        File::open("/dev/urandom")
            .and_then(|random| copy(&mut random.take(FILE_LEN), &mut File::create(&path)?))
            .map_err(LabError::file(&path))?;
        let output = std::process::Command::new(tools::find("sha256sum")?)
            .arg(&path)
            .output()
            .map_err(LabError::file(&path))?;
        Ok(Self {
            directory,
            sha256: first_word(&String::from_utf8_lossy(&output.stdout)),
        })
    }

    /// The file that is transferred.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }
}

/// The hash in a line of `sha256sum`.
pub(super) fn first_word(line: &str) -> String {
    line.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// A running web server that is an instance of the service.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) nginx: Process,
    pub(super) place: Place,
    gateway: usize,
    number: u8,
}

impl Web {
    /// Starts nginx in a namespace of its own and attaches it by its pid.
    pub(super) fn new(
        sites: &Sites,
        files: &Files,
        gateway: usize,
        number: u8,
    ) -> Result<Self, LabError> {
        let namespace = NetNs::new(&format!("web-{number}"))?;
        let nginx = start(sites, files, &namespace, number)?;
        let attached = sites.attach(gateway, WEB, Target::Pid(nginx.pid()))?;
        Ok(Self {
            nginx,
            place: Place::new(sites, namespace, attached)?,
            gateway,
            number,
        })
    }

    /// The name of its InstanceIP.
    pub(super) fn instance_name(&self) -> String {
        format!("{WEB}.{}.none.local", self.place.attached.instance_number)
    }

    /// What it answers with.
    pub(super) fn name(&self) -> String {
        format!("web {}", self.number)
    }

    /// Starts it again when it was killed; it becomes a new instance.
    pub(super) fn mend(&mut self, sites: &Sites, files: &Files) -> Result<(), LabError> {
        if self.nginx.ended().is_some() {
            *self = Self::new(sites, files, self.gateway, self.number)?;
        }
        Ok(())
    }
}

fn start(sites: &Sites, files: &Files, namespace: &NetNs, number: u8) -> Result<Process, LabError> {
    let name = format!("web-{number}");
    let directory = sites.scratch.directory(&name)?;
    let at = directory.display();
    // One process and no master: it needs no other user, so that it runs in a user namespace too, and its pid is the
    // instance's.
    let configuration = format!(
        "user root;\ndaemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n\
         access_log off;\nsendfile on;\ndefault_type text/plain;\nserver_tokens off;\n\
         client_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\nfastcgi_temp_path {at}/fastcgi;\n\
         uwsgi_temp_path {at}/uwsgi;\nscgi_temp_path {at}/scgi;\n\
         server {{\nlisten 80 backlog=511;\nlisten [::]:80 backlog=511;\nroot {};\n\
         location = / {{ return 200 \"web {number}\\n\"; }}\n}}\n}}\n",
        files.directory.display()
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, configuration).map_err(LabError::file(&path))?;
    let program = Program::new(tools::find("nginx")?)
        .args([
            "-p".as_ref(),
            directory.as_os_str(),
            "-c".as_ref(),
            path.as_os_str(),
        ])
        .arg("-e")
        .arg(directory.join("error.log"))
        .env("LD_LIBRARY_PATH", tools::library_path());
    let mut nginx = namespace.start(&program, &directory.join("said.log"))?;
    tcp::listening(namespace, 80, &mut nginx)?;
    Ok(nginx)
}
