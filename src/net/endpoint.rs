//! Where to listen or to connect, as an operator writes it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use waterwheel_reactor::{Address, UnixName};

use super::quoted::Quoted;

/// Bytes of a Unix socket's name: `sun_path` of unix(7) holds 108, one of which is the zero after a path or before an
/// abstract name.
const UNIX_NAME_BYTES_MAX: usize = 107;
/// Bytes of a host name, and of one label in it (RFC 1035, 2.3.4).
const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// Bytes of an interface's name: `IFNAMSIZ` less the zero at the end.
const ZONE_BYTES_MAX: usize = 15;

/// Where to listen or to connect: one of
///
/// | text | meaning |
/// |---|---|
/// | `tcp:192.0.2.7:80` | an IPv4 address |
/// | `tcp:[2001:db8::1]:80` | an IPv6 address; the brackets are required |
/// | `tcp:[fe80::1%eth0]:80` | a link-local address with its zone, an interface by name or number |
/// | `tcp:example.org:80` | a name, [looked up](Endpoint::resolve_blocking) when it is used |
/// | `tcp:*:80`, `tcp::80` | every IPv4 interface, as in HAProxy: the same as `tcp:0.0.0.0:80` |
/// | `tcp:[::]:80` | every interface, IPv6 and (dual stack) IPv4 |
/// | `unix:/run/x.sock` | a Unix socket's path, relative ones from the working directory |
/// | `unix:@name` | an abstract Unix socket; a path that begins with `@` is written `unix:./@name` |
///
/// `tcp:` may be left out. Port 0 lets the kernel choose a port and only makes sense for listening. Shown, an endpoint
/// is in the canonical form above, which reads back as the same endpoint.
///
/// ```
/// use waterwheel::net::Endpoint;
/// assert_eq!("*:80".parse::<Endpoint>()?.to_string(), "tcp:0.0.0.0:80");
/// assert!("::1:80".parse::<Endpoint>().is_err(), "an IPv6 address without brackets is ambiguous");
/// # Ok::<(), waterwheel::net::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    // Private, so that every endpoint there is has passed the checks of `from_str`.
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Inet { of: Carried, host: Host, port: u16 },
    Path(String),
    Abstract(String),
}

/// What goes there. Datagrams only inside a [`DatagramEndpoint`](super::datagram::DatagramEndpoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Carried {
    Streams,
    Datagrams,
}

impl Carried {
    fn prefix(self) -> &'static str {
        match self {
            Carried::Streams => "tcp:",
            Carried::Datagrams => "udp:",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Host {
    Four(Ipv4Addr),
    Six { address: Ipv6Addr, zone: Option<String> },
    Name(String),
}

impl Endpoint {
    /// Its address, if it is written as one: nothing needs to be looked up and nobody has to wait. `None`: a name, or
    /// a zone, which only the system can translate.
    pub fn literal(&self) -> Option<Address> {
        match &self.kind {
            Kind::Inet { host: Host::Four(four), port, .. } => {
                Some(Address::Inet(SocketAddr::V4(SocketAddrV4::new(*four, *port))))
            }
            Kind::Inet { host: Host::Six { address, zone: None }, port, .. } => {
                Some(Address::Inet(SocketAddr::V6(SocketAddrV6::new(*address, *port, 0, 0))))
            }
            Kind::Inet { .. } => None,
            Kind::Path(path) => Some(Address::Unix(UnixName::Path(path.into()))),
            Kind::Abstract(name) => Some(Address::Unix(UnixName::Abstract(name.clone().into_bytes()))),
        }
    }

    /// Where datagrams go, as [`DatagramEndpoint`](super::datagram::DatagramEndpoint) wraps it.
    pub(super) fn for_datagrams(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(text, Carried::Datagrams)
    }

    fn parse(text: &str, of: Carried) -> Result<Endpoint, EndpointError> {
        let kind = parse(text, of).map_err(|fault| EndpointError::new(text, of, fault))?;
        Ok(Endpoint { kind })
    }

    /// The TCP port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self.kind {
            Kind::Inet { port, .. } => Some(port),
            Kind::Path(_) | Kind::Abstract(_) => None,
        }
    }

    /// Checks that one can connect to it, not only listen on it.
    ///
    /// # Errors
    /// For port 0 and for "every interface".
    pub fn check_target(&self) -> Result<(), EndpointError> {
        let Kind::Inet { of, host, port } = &self.kind else { return Ok(()) };
        let fault = match host {
            _ if *port == 0 => EndpointFault::PortZeroTarget,
            Host::Four(four) if four.is_unspecified() => EndpointFault::WildcardTarget,
            Host::Six { address, .. } if address.is_unspecified() => EndpointFault::WildcardTarget,
            _ => return Ok(()),
        };
        Err(EndpointError::new(&self.to_string(), *of, fault))
    }

    /// What a resolver has to be asked: the host as it expects it, and the port.
    pub(super) fn question(&self) -> Option<(String, u16)> {
        match &self.kind {
            Kind::Inet { host: Host::Name(name), port, .. } => Some((name.clone(), *port)),
            Kind::Inet { host: Host::Six { address, zone: Some(zone) }, port, .. } => {
                Some((format!("{address}%{zone}"), *port))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Inet { of, host, port } => write!(f, "{}{host}:{port}", of.prefix()),
            Kind::Path(path) => write!(f, "unix:{path}"),
            Kind::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Four(four) => four.fmt(f),
            Host::Six { address, zone: None } => write!(f, "[{address}]"),
            Host::Six { address, zone: Some(zone) } => write!(f, "[{address}%{zone}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// A text that is no endpoint. Shows the text, what is wrong and what is allowed in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {}: {fault}; allowed: {}", Quoted(.given), .fault.allowed().replace("tcp:", .of.prefix()))]
pub struct EndpointError {
    given: String,
    of: Carried,
    fault: EndpointFault,
}

impl EndpointError {
    fn new(given: &str, of: Carried, fault: EndpointFault) -> EndpointError {
        EndpointError { given: given.to_owned(), of, fault }
    }

    /// What is wrong.
    pub fn fault(&self) -> EndpointFault {
        self.fault
    }
}

/// What is wrong with a text that should be an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EndpointFault {
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// `http://…` and the like.
    #[error("it is a URL")]
    Url,
    /// A path without `unix:`.
    #[error("it looks like a path")]
    BarePath,
    /// `udp:` where connections are meant.
    #[error("udp: carries datagrams, which are no stream")]
    NoStream,
    /// `tcp:` where datagrams are meant.
    #[error("tcp: carries a stream, which is no datagrams")]
    NoDatagrams,
    /// A prefix other than `tcp:` and `unix:`.
    #[error("there is no such kind of endpoint")]
    UnknownKind,
    /// A host without a port.
    #[error("the port is missing")]
    MissingPort,
    /// The port is no number from 0 to 65 535.
    #[error("the port is not a number from 0 to 65535")]
    BadPort,
    /// An IPv6 address that runs into its port.
    #[error("an IPv6 address needs brackets")]
    MissingBrackets,
    /// `[` without its `]`.
    #[error("the bracket is not closed")]
    OpenBracket,
    /// What is in brackets is no IPv6 address.
    #[error("what stands in brackets is not an IPv6 address")]
    BadSix,
    /// After `%` there is no interface.
    #[error("the zone after % is not an interface's name or number of 1 to 15 characters")]
    BadZone,
    /// Four numbers, or fewer, that make no IPv4 address.
    #[error("the host is not an IPv4 address of four numbers from 0 to 255")]
    BadFour,
    /// Neither an address nor a name.
    #[error("the host is not a name of letters, digits, - and _ between dots")]
    BadName,
    /// A Unix socket's name that is empty.
    #[error("the socket's name is empty")]
    EmptyUnixName,
    /// A Unix socket's name that the kernel cannot hold.
    #[error("the socket's name is longer than 107 bytes")]
    LongUnixName,
    /// A Unix socket's name with a zero byte.
    #[error("the socket's name contains a zero byte")]
    ZeroInUnixName,
    /// Connecting to port 0.
    #[error("nothing can connect to port 0")]
    PortZeroTarget,
    /// Connecting to every interface.
    #[error("it means every interface, and a connection goes to one")]
    WildcardTarget,
}

impl EndpointFault {
    /// What would have been right.
    fn allowed(self) -> &'static str {
        match self {
            EndpointFault::MissingBrackets | EndpointFault::OpenBracket | EndpointFault::BadSix => {
                "tcp:[IPV6]:PORT, as in tcp:[::1]:80"
            }
            EndpointFault::BadZone => "tcp:[IPV6%INTERFACE]:PORT, as in tcp:[fe80::1%eth0]:80",
            EndpointFault::BarePath
            | EndpointFault::EmptyUnixName
            | EndpointFault::LongUnixName
            | EndpointFault::ZeroInUnixName => "unix:PATH or unix:@NAME of 1 to 107 bytes",
            EndpointFault::PortZeroTarget => "a port from 1 to 65535",
            EndpointFault::WildcardTarget => "one address or name",
            _ => "tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, unix:@NAME",
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(text, Carried::Streams)
    }
}

fn parse(text: &str, of: Carried) -> Result<Kind, EndpointFault> {
    if let Some(name) = text.strip_prefix("unix:") {
        return match name.strip_prefix('@') {
            Some(name) => Ok(Kind::Abstract(unix_name(name)?)),
            None => Ok(Kind::Path(unix_name(name)?)),
        };
    }
    if text.contains("://") {
        return Err(EndpointFault::Url);
    }
    match of {
        Carried::Streams if text.starts_with("udp:") => return Err(EndpointFault::NoStream),
        Carried::Datagrams if text.starts_with("tcp:") => return Err(EndpointFault::NoDatagrams),
        _ => {}
    }
    let rest = text.strip_prefix(of.prefix()).unwrap_or(text);
    match rest.chars().next() {
        None => return Err(EndpointFault::Empty),
        Some('/') => return Err(EndpointFault::BarePath),
        Some('[') => return bracketed(&rest[1..], of),
        Some(_) => {}
    }
    let Some((host, port)) = rest.rsplit_once(':') else { return Err(EndpointFault::MissingPort) };
    if host.contains(':') {
        let is_six = |text: &str| text.split('%').next().is_some_and(|six| six.parse::<Ipv6Addr>().is_ok());
        let ambiguous = is_six(host) || is_six(rest) || host.starts_with(':');
        return Err(if ambiguous { EndpointFault::MissingBrackets } else { EndpointFault::UnknownKind });
    }
    Ok(Kind::Inet { of, host: plain_host(host)?, port: port_number(port)? })
}

fn unix_name(name: &str) -> Result<String, EndpointFault> {
    match name.len() {
        0 => Err(EndpointFault::EmptyUnixName),
        _ if name.contains('\0') => Err(EndpointFault::ZeroInUnixName),
        1..=UNIX_NAME_BYTES_MAX => Ok(name.to_owned()),
        _ => Err(EndpointFault::LongUnixName),
    }
}

/// What follows an opening bracket: `IPV6]:PORT` or `IPV6%ZONE]:PORT`.
fn bracketed(rest: &str, of: Carried) -> Result<Kind, EndpointFault> {
    let (inside, after) = rest.split_once(']').ok_or(EndpointFault::OpenBracket)?;
    let (address, zone) = match inside.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (inside, None),
    };
    let address = address.parse().map_err(|_| EndpointFault::BadSix)?;
    let of_interface = |byte: u8| byte.is_ascii_graphic() && !b"/:%[]".contains(&byte);
    let zone = match zone {
        Some(zone) if !(1..=ZONE_BYTES_MAX).contains(&zone.len()) || !zone.bytes().all(of_interface) => {
            return Err(EndpointFault::BadZone);
        }
        zone => zone.map(str::to_owned),
    };
    let port = match after.strip_prefix(':') {
        Some(port) => port_number(port)?,
        None if after.is_empty() => return Err(EndpointFault::MissingPort),
        None => return Err(EndpointFault::BadPort),
    };
    Ok(Kind::Inet { of, host: Host::Six { address, zone }, port })
}

fn port_number(text: &str) -> Result<u16, EndpointFault> {
    match text.len() {
        0 => Err(EndpointFault::MissingPort),
        // The standard parser would take a sign.
        1..=5 if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| EndpointFault::BadPort)
        }
        _ => Err(EndpointFault::BadPort),
    }
}

fn plain_host(host: &str) -> Result<Host, EndpointFault> {
    if host.is_empty() || host == "*" {
        return Ok(Host::Four(Ipv4Addr::UNSPECIFIED));
    }
    if let Ok(four) = host.parse() {
        return Ok(Host::Four(four));
    }
    if !is_host_name(host) {
        return Err(EndpointFault::BadName);
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    // The system's resolver would read `127.1` or `0x7f000001` as an address, in ways that surprise.
    let last = labels.rsplit('.').next().unwrap_or(labels);
    if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X") {
        return Err(EndpointFault::BadFour);
    }
    Ok(Host::Name(host.to_owned()))
}

/// Whether a text is made like the name of a host, which may end in a dot.
pub(crate) fn is_host_name(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let of_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let good = |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(of_label);
    labels.len() <= HOST_BYTES_MAX && labels.split('.').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        text.parse::<Endpoint>().unwrap().to_string()
    }

    fn fault(text: &str) -> EndpointFault {
        text.parse::<Endpoint>().unwrap_err().fault()
    }

    #[test]
    fn what_an_operator_writes_is_understood() {
        for (given, canonical) in [
            ("tcp:127.0.0.1:8080", "tcp:127.0.0.1:8080"),
            ("127.0.0.1:0", "tcp:127.0.0.1:0"),
            ("*:80", "tcp:0.0.0.0:80"),
            (":80", "tcp:0.0.0.0:80"),
            ("tcp::65535", "tcp:0.0.0.0:65535"),
            ("[::]:80", "tcp:[::]:80"),
            ("tcp:[2001:DB8:0::1]:00080", "tcp:[2001:db8::1]:80"),
            ("[::ffff:192.0.2.7]:1", "tcp:[::ffff:192.0.2.7]:1"),
            ("[fe80::1%eth0]:80", "tcp:[fe80::1%eth0]:80"),
            ("[fe80::1%2]:80", "tcp:[fe80::1%2]:80"),
            ("localhost:80", "tcp:localhost:80"),
            ("my_service.web-1.example.:80", "tcp:my_service.web-1.example.:80"),
            ("4th.example:80", "tcp:4th.example:80"),
            ("unix:/run/a b:c.sock", "unix:/run/a b:c.sock"),
            ("unix:x", "unix:x"),
            ("unix:./@x", "unix:./@x"),
            ("unix:@name/with:anything", "unix:@name/with:anything"),
        ] {
            assert_eq!(shown(given), canonical, "{given}");
        }
    }

    #[test]
    fn nonsense_is_told_apart() {
        use EndpointFault::*;
        for (given, expected) in [
            ("", Empty),
            ("tcp:", Empty),
            ("http://localhost:80/", Url),
            ("tcp://localhost:80", Url),
            ("/run/x.sock", BarePath),
            ("udp:127.0.0.1:53", NoStream),
            ("udq:127.0.0.1:53", UnknownKind),
            ("TCP:127.0.0.1:80", UnknownKind),
            ("localhost", MissingPort),
            ("tcp:80", MissingPort),
            ("localhost:", MissingPort),
            ("[::1]", MissingPort),
            ("[::1]:", MissingPort),
            ("localhost:http", BadPort),
            ("localhost:65536", BadPort),
            ("localhost:-1", BadPort),
            ("localhost:+80", BadPort),
            ("localhost:80 ", BadPort),
            ("localhost:80/index", BadPort),
            ("localhost:000080", BadPort),
            ("[::1]80", BadPort),
            ("[::1]x:80", BadPort),
            ("::1:80", MissingBrackets),
            (":::80", MissingBrackets),
            ("2001:db8::1", MissingBrackets),
            ("fe80::1%eth0:80", MissingBrackets),
            ("[::1:80", OpenBracket),
            ("[127.0.0.1]:80", BadSix),
            ("[localhost]:80", BadSix),
            ("[]:80", BadSix),
            ("[fe80::1%]:80", BadZone),
            ("[fe80::1%eth 0]:80", BadZone),
            ("[fe80::1%sixteen-letters.]:80", BadZone),
            ("127.0.0.256:80", BadFour),
            ("127.1:80", BadFour),
            ("0x7f000001:80", BadFour),
            ("local host:80", BadName),
            (" localhost:80", BadName),
            ("a..b:80", BadName),
            (".:80", BadName),
            ("müller.example:80", BadName),
            ("user@localhost:80", BadName),
            ("unix:", EmptyUnixName),
            ("unix:@", EmptyUnixName),
            ("unix:a\0b", ZeroInUnixName),
        ] {
            assert_eq!(fault(given), expected, "{given:?}");
        }
    }

    #[test]
    fn unix_names_end_where_the_kernels_field_ends() {
        for prefix in ["unix:", "unix:@"] {
            let longest = format!("{prefix}{}", "x".repeat(107));
            assert_eq!(shown(&longest), longest);
            assert_eq!(fault(&format!("{longest}x")), EndpointFault::LongUnixName);
        }
    }

    #[test]
    fn names_are_bounded() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(shown(&format!("{longest}:1")), format!("tcp:{longest}:1"));
        assert_eq!(fault(&format!("{longest}b:1")), EndpointFault::BadName);
        assert_eq!(fault(&format!("{label}a:1")), EndpointFault::BadName);
    }

    #[test]
    fn an_error_is_one_line_with_value_fault_and_remedy() {
        let error = "local\nhost".parse::<Endpoint>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"endpoint "local\nhost": the port is missing; allowed: tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, unix:@NAME"#
        );
    }

    #[test]
    fn one_cannot_connect_to_everywhere_or_port_zero() {
        let target = |text: &str| text.parse::<Endpoint>().unwrap().check_target().map_err(|e| e.fault());
        assert_eq!(target("*:80"), Err(EndpointFault::WildcardTarget));
        assert_eq!(target("[::]:80"), Err(EndpointFault::WildcardTarget));
        assert_eq!(target("localhost:0"), Err(EndpointFault::PortZeroTarget));
        assert_eq!(target("localhost:1"), Ok(()));
        assert_eq!(target("unix:@x"), Ok(()));
    }

    #[test]
    fn literals_need_no_lookup_and_the_rest_does() {
        let literal = |text: &str| text.parse::<Endpoint>().unwrap().literal();
        assert_eq!(literal("127.0.0.1:9"), Some(Address::Inet("127.0.0.1:9".parse().unwrap())));
        assert_eq!(literal("[::1]:9"), Some(Address::Inet("[::1]:9".parse().unwrap())));
        assert_eq!(literal("unix:/x"), Some(Address::Unix(UnixName::Path("/x".into()))));
        assert_eq!(literal("unix:@x"), Some(Address::Unix(UnixName::Abstract(b"x".to_vec()))));
        for text in ["localhost:9", "[fe80::1%lo]:9"] {
            assert_eq!(literal(text), None);
            assert!(text.parse::<Endpoint>().unwrap().question().is_some());
        }
    }

    /// Texts near the grammar, so that a good part of them parses.
    fn near_endpoints() -> impl Strategy<Value = String> {
        let host = prop_oneof![
            any::<Ipv4Addr>().prop_map(|four| four.to_string()),
            any::<Ipv6Addr>().prop_map(|six| format!("[{six}]")),
            (any::<Ipv6Addr>(), "[a-z0-9.@!-]{0,17}").prop_map(|(six, zone)| format!("[{six}%{zone}]")),
            "[a-zA-Z0-9_.*-]{0,20}",
            "\\PC{0,8}",
        ];
        let port = prop_oneof![any::<u16>().prop_map(|port| port.to_string()), "[0-9]{0,6}", "\\PC{0,4}"];
        let tcp = ("(tcp:)?", host, port).prop_map(|(kind, host, port)| format!("{kind}{host}:{port}"));
        prop_oneof![4 => tcp, 2 => "unix:@?\\PC{0,60}", 1 => any::<String>()]
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(text in near_endpoints()) {
            match text.parse::<Endpoint>() {
                Ok(endpoint) => {
                    prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint.clone()));
                    prop_assert_eq!(endpoint.literal().is_none(), endpoint.question().is_some());
                }
                Err(error) => {
                    let line = error.to_string();
                    prop_assert!(!line.chars().any(char::is_control), "{}", line);
                    prop_assert!(line.contains("allowed: "), "{}", line);
                }
            }
        }
    }
}
