//! The certificate of port 25: from the mounted Secret to Postfix, without a restart.
//!
//! Every smtpd(8) process reads key and chain when it starts (postconf(5), `smtpd_tls_chain_files`), so whatever lies in
//! that file is live sooner or later. Hence Postfix never reads the mounted files: it has a copy in memory, for root
//! alone, which is replaced in one piece by a pair that was checked. After the reload Postfix is asked for it by
//! STARTTLS, since OpenSSL may refuse what looks good here; then the pair before comes back.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, SignatureScheme};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::smtp::Session;
use crate::revision::Tls as Told;

/// More than a key and any chain need.
const LARGEST_FILE: u64 = 1024 * 1024;
/// What one step of the question takes at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// When a pair that Postfix did not take is offered to it again, unless another comes before.
const AGAIN: Duration = Duration::from_secs(300);

/// A private key and its chain, which belong together.
#[derive(Clone, PartialEq, Eq)]
struct Pair {
    /// Key, then certificate, then chain, as Postfix wants them. Never printed.
    pem: Vec<u8>,
    leaf: Vec<u8>,
    not_after: Timestamp,
}

/// What the Secret holds, `tls.crt` and `tls.key`.
#[derive(PartialEq, Eq)]
struct Mounted {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// See the module.
pub struct Tls {
    mounted: PathBuf,
    file: PathBuf,
    live: Option<Pair>,
    before: Option<Pair>,
    proved: bool,
    /// What was dealt with last, and when that is done again.
    seen: Option<Option<Mounted>>,
    again: Option<Instant>,
    rejected: bool,
    message: String,
}

impl Tls {
    /// Certificates from `mounted`, for Postfix in `directory`. A pair that an earlier container of this pod left there is
    /// used until the mounted one is known to be good.
    pub fn new(mounted: &Path, directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        let file = directory.join("chain.pem");
        let left = read(&file).ok().and_then(|pem| check(&pem, &pem, Timestamp::now()).ok());
        Ok(Self {
            mounted: mounted.to_owned(),
            file,
            live: left,
            before: None,
            proved: false,
            seen: None,
            again: None,
            rejected: false,
            message: String::new(),
        })
    }

    /// What `main.cf` says about STARTTLS; the Postfix default is to offer none.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let (level, file) = match &self.live {
            Some(_) => ("may", self.file.display().to_string()),
            None => ("none", String::new()),
        };
        vec![("smtpd_tls_security_level", level.into()), ("smtpd_tls_chain_files", file)]
    }

    /// Puts a new good pair where Postfix reads it; whether there is one. It then needs a reload and [`Tls::prove`].
    pub fn take_up(&mut self) -> bool {
        let found = match mounted(&self.mounted) {
            Ok(found) => found,
            Err(error) => {
                self.seen = None;
                self.refuse(&error);
                return false;
            }
        };
        let again = self.again.is_some_and(|again| again <= Instant::now());
        if self.seen.as_ref() == Some(&found) && !again {
            return false;
        }
        self.again = None;
        let checked = match &found {
            Some(found) => check(&found.certificate, &found.key, Timestamp::now()),
            None if self.live.is_none() => {
                self.message = "no certificate is mounted, so port 25 offers no STARTTLS".into();
                self.rejected = false;
                tracing::info!("{}", self.message);
                self.seen = Some(found);
                return false;
            }
            None => Err("the mounted certificate is gone".into()),
        };
        self.seen = Some(found);
        let pair = match checked {
            Ok(pair) if self.live.as_ref() == Some(&pair) => {
                self.message.clear();
                self.rejected = false;
                return false;
            }
            Ok(pair) => pair,
            Err(error) => {
                self.refuse(&error);
                return false;
            }
        };
        if let Err(error) = write(&self.file, &pair.pem) {
            self.refuse(&format!("{}: {error}", self.file.display()));
            self.seen = None;
            return false;
        }
        self.message.clear();
        self.rejected = false;
        self.before = self.live.replace(pair);
        self.proved = false;
        true
    }

    /// Whether Postfix is to be asked for the pair.
    pub fn is_unproved(&self) -> bool {
        self.live.is_some() && !self.proved
    }

    /// Asks the running Postfix whether it offers the pair.
    ///
    /// # Errors
    /// What it does instead.
    pub async fn prove(&mut self, address: &str) -> Result<(), String> {
        let Some(pair) = &self.live else { return Ok(()) };
        let offered = offered(address).await?;
        if offered != pair.leaf {
            return Err("Postfix offers another certificate than the new one".into());
        }
        tracing::info!(not_after = %pair.not_after, "port 25 offers STARTTLS");
        self.proved = true;
        self.before = None;
        Ok(())
    }

    /// Brings the pair before back, since Postfix does not take this one. It needs a reload.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn give_back(&mut self, why: &str) -> io::Result<()> {
        self.live = self.before.take();
        // It was proved when it was live.
        self.proved = true;
        self.again = Some(Instant::now() + AGAIN);
        self.refuse(why);
        match &self.live {
            Some(pair) => write(&self.file, &pair.pem),
            None => fs::remove_file(&self.file),
        }
    }

    /// What the report says.
    pub fn told(&self) -> Told {
        Told {
            not_after: self.live.as_ref().map(|pair| pair.not_after),
            rejected: self.rejected,
            message: self.message.clone(),
        }
    }

    fn refuse(&mut self, why: &str) {
        self.rejected = true;
        let message = match &self.live {
            Some(pair) => format!("{why}; the certificate before, until {}, stays", pair.not_after),
            None => format!("{why}; port 25 offers no STARTTLS"),
        };
        if self.message != message {
            tracing::error!("the mounted certificate is not used: {message}");
            self.message = message;
        }
    }
}

/// The mounted pair; nothing while neither file is there. kubelet swaps `..data`, so both files come from one place.
fn mounted(directory: &Path) -> Result<Option<Mounted>, String> {
    let directory = fs::canonicalize(directory.join("..data")).unwrap_or_else(|_| directory.to_owned());
    let file = |name: &str| match read(&directory.join(name)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{name}: {error}")),
    };
    match (file("tls.crt")?, file("tls.key")?) {
        (None, None) => Ok(None),
        (certificate, key) => {
            Ok(Some(Mounted { certificate: certificate.unwrap_or_default(), key: key.unwrap_or_default() }))
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > LARGEST_FILE {
        return Err(io::Error::other("too large"));
    }
    fs::read(path)
}

/// For root alone, and in one piece.
fn write(path: &Path, pem: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?.write_all(pem)?;
    fs::rename(next, path)
}

/// Whether key and certificate belong together and count now. No message holds anything of the key.
fn check(certificate: &[u8], key: &[u8], now: Timestamp) -> Result<Pair, String> {
    let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| "tls.crt is not PEM throughout")?;
    let leaf = chain.first().ok_or("tls.crt holds no certificate")?.to_vec();
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf)
        .map_err(|error| format!("the first certificate of tls.crt cannot be read: {error}"))?;
    let time = |seconds: i64, what: &str| {
        Timestamp::from_second(seconds).map_err(|_| format!("the certificate's {what} is out of range"))
    };
    let not_before = time(parsed.validity().not_before.timestamp(), "notBefore")?;
    let not_after = time(parsed.validity().not_after.timestamp(), "notAfter")?;
    if now < not_before {
        return Err(format!("the certificate is valid from {not_before} on"));
    }
    if now >= not_after {
        return Err(format!("the certificate expired at {not_after}"));
    }
    let private = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "tls.key holds no private key in PEM (PKCS #1, PKCS #8 or SEC 1, not encrypted)")?;
    let private = ring::sign::any_supported_type(&private).map_err(
        |_| "tls.key is of a sort that is not known here; RSA, ECDSA P-256 or P-384, and Ed25519 are",
    )?;
    match CertifiedKey::new(chain, private).keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            return Err("tls.key does not belong to the first certificate of tls.crt".into());
        }
        Err(error) => return Err(format!("the first certificate of tls.crt cannot be used: {error}")),
    }
    let pem = if certificate == key { key.to_vec() } else { [key, b"\n", certificate].concat() };
    Ok(Pair { pem, leaf, not_after })
}

/// The certificate that a server shows after STARTTLS (RFC 3207), whoever signed it. That the server has its key is
/// verified.
async fn offered(address: &str) -> Result<Vec<u8>, String> {
    let session = Session::connect(address, PATIENCE).await.map_err(|error| error.to_string())?;
    let stream = session.starttls().await.map_err(|error| error.to_string())?;
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyIssuer(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = tokio::time::timeout(PATIENCE, connector.connect(name, stream)).await;
    let stream = handshake
        .map_err(|_| format!("{address}: no TLS handshake within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("{address}: TLS handshake: {error}"))?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    shown.map(|shown| shown.to_vec()).ok_or_else(|| format!("{address}: no certificate"))
}

/// The question is which certificate Postfix has, not who trusts it.
#[derive(Debug)]
struct AnyIssuer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyIssuer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
