//! TLS: certificates are checked, other authorities can be trusted, and the client can show its own certificate.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use loadgen::{Live, LiveOptions, LiveRun, Prompts, Proxies, Server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::fixture::{load, read_request, slo};

/// An authority, and files with its certificate and with a certificate and key that it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = std::env::temp_dir().join(format!("knee-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let authority = Self { issuer, dir };
        authority.write("ca.pem", authority.issuer.pem());
        authority
    }

    fn write(&self, name: &str, text: String) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for `host` and its key, as files.
    fn identity(&self, host: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = self.write(&format!("{host}.pem"), certificate.pem());
        (chain, self.write(&format!("{host}.key"), key.serialize_pem()))
    }

    /// A TLS server for `host`, one answer per connection; asks for a certificate of this authority if `mutual`.
    fn serve(&self, host: &str, mutual: bool) -> String {
        let (chain, key) = self.identity(host);
        let chain = rustls::pki_types::CertificateDer::pem_file_iter(chain).unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(chain.map(Result::unwrap).collect(), key).unwrap();
        format!("https://{host}:{}", listen(config))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The port of a TLS server that answers every connection.
fn listen(config: ServerConfig) -> u16 {
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || answer(StreamOwned::new(session, tcp)));
        }
    });
    port
}

/// A server whose certificate signs itself and calls itself an authority, as `openssl req -x509` makes it, for `hosts`:
/// its port and the certificate.
fn signed_by_itself(authority: &Authority, hosts: &[&str]) -> (u16, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let name = format!("self-{}.pem", hosts.join("-"));
    let mut params = CertificateParams::new(hosts).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let path = authority.write(&name, certificate.pem());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    (listen(config), path)
}

/// Two tokens in two records per request, until the client leaves.
fn answer(mut stream: StreamOwned<ServerConnection, TcpStream>) {
    let token = r#"data: {"choices":[{"text":"a","finish_reason":null}]}"#;
    let end = r#"data: {"choices":[{"text":"b","finish_reason":"length"}]}"#;
    let (first, second) = (format!("{token}\n\n"), format!("{end}\n\ndata: [DONE]\n\n"));
    let length = first.len() + second.len();
    while read_request(&mut stream).is_ok() {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n"
        );
        let sent = stream
            .write_all((head + &first).as_bytes())
            .and_then(|()| stream.flush())
            .and_then(|()| stream.write_all(second.as_bytes()))
            .and_then(|()| stream.flush());
        if sent.is_err() {
            return;
        }
    }
}

/// A proxy that lets every client through to this machine's ports, for any host.
fn proxy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let port = head.strip_prefix("CONNECT inference.invalid:").unwrap();
            let port: u16 = port.split(' ').next().unwrap().parse().unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    format!("http://{address}")
}

#[test]
fn a_proxy_lets_through_to_a_secured_server() {
    let authority = Authority::new("proxied");
    let url = authority.serve("inference.invalid", false);
    let proxies = Proxies { https: Some(proxy()), ..Proxies::default() };
    let through = Server { proxies, url, ca: Some(authority.ca()), ..Server::default() };
    let run = driven(&through);
    assert!(fine(&run), "{:?}", run.failures);
}

fn drive(url: String, ca: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>) -> LiveRun {
    driven(&Server { url, ca, identity, ..Server::default() })
}

fn driven(server: &Server) -> LiveRun {
    let live = Live::assume(server, "m", Prompts::Ids).unwrap();
    // A prompt of several records.
    let trace = load(20, 3, 9_000, 2);
    let options = LiveOptions { timeout: Duration::from_secs(5), ..LiveOptions::default() };
    live.run(&trace, &options, &slo(&[], &trace), |_| true).unwrap()
}

fn fine(run: &LiveRun) -> bool {
    run.failures.is_empty() && run.recording.records.iter().all(|r| r.completed() && r.output == 2)
}

#[test]
fn certificates_are_checked() {
    let authority = Authority::new("checked");
    let url = authority.serve("localhost", false);
    let trusted = drive(url.clone(), Some(authority.ca()), None);
    assert!(fine(&trusted), "{:?}", trusted.failures);
    let unknown = drive(url, None, None);
    assert_eq!(unknown.failures["tls"].count, 20, "{:?}", unknown.failures);
    assert!(unknown.failures["tls"].cause.contains("certificate"), "{:?}", unknown.failures);
    let misnamed =
        authority.serve("elsewhere.invalid", false).replace("elsewhere.invalid", "localhost");
    assert_eq!(drive(misnamed, Some(authority.ca()), None).failures["tls"].count, 20);
}

#[test]
fn the_very_certificate_that_is_named_is_trusted() {
    let authority = Authority::new("itself");
    let url = |port: u16| format!("https://localhost:{port}");
    let (port, certificate) = signed_by_itself(&authority, &["localhost"]);
    let named = drive(url(port), Some(certificate.clone()), None);
    assert!(fine(&named), "{:?}", named.failures);
    assert_eq!(drive(url(port), Some(authority.ca()), None).failures["tls"].count, 20);
    let (nameless, itself) = signed_by_itself(&authority, &[]);
    let named = drive(url(nameless), Some(itself), None);
    assert!(fine(&named), "a certificate for no host in particular: {:?}", named.failures);
    assert_eq!(drive(url(nameless), Some(certificate), None).failures["tls"].count, 20);
    let (misnamed, itself) = signed_by_itself(&authority, &["elsewhere.invalid"]);
    assert_eq!(drive(url(misnamed), Some(itself), None).failures["tls"].count, 20);
}

#[test]
fn a_client_can_show_its_certificate() {
    let authority = Authority::new("mutual");
    let url = authority.serve("localhost", true);
    let known = drive(url.clone(), Some(authority.ca()), Some(authority.identity("client")));
    assert!(fine(&known), "{:?}", known.failures);
    let stranger = drive(url, Some(authority.ca()), None);
    assert!(stranger.recording.records.iter().all(|r| !r.completed()));
}

#[test]
fn a_server_that_speaks_no_tls() {
    let rig = crate::fixture::Rig::start(loadgen::MockOptions::default());
    let run = drive(format!("https://{}", rig.address), None, None);
    assert_eq!(run.failures["tls"].count, 20, "{:?}", run.failures);
    rig.end();
}
