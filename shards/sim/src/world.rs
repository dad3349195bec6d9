//! A world and its hosts, as those who build one see them.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use waterwheel_reactor::{
    Address, Backend, Bound, BoundDatagrams, DatagramOptions, Ended, Handle, Launch, ListenOptions, Program,
    Time, Unavailable, Why,
};

use crate::datagrams::Sharing;
use crate::drive::{Driving, drive};
use crate::errno;
use crate::fault::Rule;
use crate::host::Host as Known;
use crate::options::Options;
use crate::outlet::LooseDatagrams;
use crate::random::Random;
use crate::reactor::{Ear, spare};
use crate::report::Stuck;
use crate::shard::{Done, Fresh};
use crate::state::Shared;
use crate::steered::socket_of;
use crate::trace::What;

/// A simulated world: hosts, a network between them, and a seed that decides. Clones are the same world.
///
/// * Build it: [`new`](World::new), [`host`](World::host), [`rule`](World::rule).
/// * Run programs in it: each [`Host`] is a [`Backend`]; several at once with [`launch`](World::launch) and
///   [`drive`](World::drive).
/// * Look at it: [`now`](World::now), [`trace_hash`](World::trace_hash), [`tail`](World::tail),
///   [`connections`](World::connections), [`left_over`](World::left_over).
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

/// A connection of a host, for whoever looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Standing {
    /// Its own address.
    pub local: Address,
    /// The peer's.
    pub peer: Address,
    /// The shard that has it; `None`: it waits to be accepted, or is on its way from shard to shard.
    pub shard: Option<usize>,
}

impl World {
    /// A world in virtual time: everything that happens in it is decided by `seed`, and by what runs in it.
    pub fn new(seed: u64, options: Options) -> World {
        let options = options.possible();
        World { shared: Arc::new(Shared::new(seed, options, false)) }
    }

    /// The same with options that the seed draws too: see [`Options::drawn`].
    pub fn drawn(seed: u64) -> World {
        // Another stream than the world's own.
        World::new(seed, Options::drawn(&mut Random::new(!seed)))
    }

    /// A world in real time, in which nothing is drawn and nothing takes time: for programs that talk to threads which
    /// are no shards, such as the laws of a reactor. Shards may be woken from other threads, and those may use
    /// [`outside`](crate::outside) sockets.
    pub fn live() -> World {
        World { shared: Arc::new(Shared::new(0, Options::calm(), true)) }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// The options.
    pub fn options(&self) -> Options {
        self.shared.lock().options.clone()
    }

    /// How old the world is.
    pub fn now(&self) -> Time {
        self.shared.lock().now
    }

    /// A number that the seed decides, from the world's own stream.
    pub fn number(&self) -> u64 {
        self.shared.lock().random.number()
    }

    /// One below `end`, from the same stream; 0 if that is 0.
    pub fn below(&self, end: u64) -> u64 {
        self.shared.lock().random.below(end)
    }

    /// A new host with an address of each family of its own, 10.0.0.1 and fd00::1 and so on, and a name under which
    /// others find it.
    ///
    /// # Panics
    /// If there is one of this name, or there are 250 already.
    pub fn host(&self, name: &str) -> Host {
        let number = u8::try_from(self.shared.lock().hosts.len() + 1).ok().filter(|number| *number <= 250);
        let number = number.expect("at most 250 hosts");
        let six = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number));
        self.host_at(name, vec![Ipv4Addr::new(10, 0, 0, number).into(), six.into()])
    }

    /// A new host with these addresses.
    ///
    /// # Panics
    /// If there is one of this name.
    pub fn host_at(&self, name: &str, ips: Vec<IpAddr>) -> Host {
        let host = self.shared.with(|state| {
            assert!(state.hosts.iter().all(|host| &*host.name != name), "there is a host {name} already");
            let open_max = state.options.descriptors;
            state.trace.hosts.push(name.into());
            state.hosts.push(Known::new(name, ips, open_max));
            state.forget_known();
            state.hosts.len() - 1
        });
        Host { shared: self.shared.clone(), host }
    }

    /// Adds a rule, behind those that are there.
    pub fn rule(&self, rule: Rule) {
        self.shared.with(|state| {
            state.unknown.extend(rule.hosts().map(Into::into));
            state.forget_known();
            state.rules.push(rule);
        });
    }

    /// Ends all rules. Partitions heal: what they held back arrives soon. What else the rules have done stays done.
    pub fn end_rules(&self) {
        self.shared.with(|state| {
            state.rules.clear();
            state.release();
        });
    }

    /// Names of hosts that rules of this world were about, and that never were.
    pub fn unknown_hosts(&self) -> Vec<String> {
        self.shared.lock().unknown.iter().map(ToString::to_string).collect()
    }

    /// Runs shards on a host once the world is [driven](World::drive); `done` is told how they ended.
    pub fn launch(&self, host: &Host, launches: Vec<Launch>, done: Done) {
        let fresh = Fresh { host: host.host, launches, done };
        self.shared.with(|state| state.fresh.push_back(fresh));
    }

    /// Lets the world go on until `over`, which is asked after each step.
    ///
    /// # Errors
    /// Nothing can happen any more, or there is no end of it: who waits for what. All shards have been ended.
    ///
    /// # Panics
    /// If this thread drives a world already, or another thread this one.
    pub fn drive(&self, over: impl Fn() -> bool) -> Result<(), Stuck> {
        match Driving::begin(&self.shared) {
            Ok(driving) => drive(&driving, &over),
            Err(why_not) => panic!("{why_not}"),
        }
    }

    /// Writes every event from now on, a line of JSON each. `out` must not use the world, which is locked meanwhile.
    pub fn trace_to(&self, out: impl Write + Send + 'static) {
        self.shared.with(|state| state.trace.write_to(Box::new(out)));
    }

    /// Hands what was written on to whoever reads it.
    ///
    /// # Errors
    /// Some of it could not be written.
    pub fn flush_trace(&self) -> io::Result<()> {
        self.shared.lock().trace.flush()
    }

    /// A hash over all that has happened: the same for the same seed, options and program.
    pub fn trace_hash(&self) -> u64 {
        self.shared.lock().trace.hash()
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.shared.lock().trace.count()
    }

    /// The last events, at most so many, a line each.
    pub fn tail(&self, most: usize) -> String {
        self.shared.lock().trace.tail(most)
    }

    /// Adds a line to the trace: of the shard that is polled at the moment, if one is.
    pub fn say(&self, text: &str) {
        self.shared.with(|state| {
            let host = state.polled.map_or(usize::MAX, |(host, _)| host);
            state.note(host, None, What::Said(text.into()));
        });
    }

    /// The connections that programs of a host have open, or that wait there to be accepted.
    pub fn connections(&self, host: &Host) -> Vec<Standing> {
        let state = self.shared.lock();
        let of_host =
            state.ends.values().filter(|end| end.host == host.host && end.owner != crate::end::Owner::Nobody);
        of_host
            .map(|end| Standing {
                local: end.local.clone(),
                peer: end.peer.clone(),
                shard: end.shard.and_then(|shard| state.shards.get(&shard)).map(|place| place.number),
            })
            .collect()
    }

    /// The shards that have ended and on which tasks panicked, a line each.
    pub fn panics(&self) -> Vec<String> {
        self.shared.lock().panics.clone()
    }

    /// What nobody has given back: to be asked for when everything has ended.
    pub fn left_over(&self) -> Vec<String> {
        self.shared.lock().left_over()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// A machine of a world: a backend whose shards all run on the thread that drives the world. Clones are the same host.
#[derive(Clone)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    pub(crate) host: usize,
}

impl Host {
    /// The world that it is in.
    pub fn world(&self) -> World {
        World { shared: self.shared.clone() }
    }

    /// Its name, which others may look up.
    pub fn name(&self) -> String {
        self.shared.lock().hosts[self.host].name.to_string()
    }

    /// Its addresses, but for the loopback ones, which every host has.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.shared.lock().hosts[self.host].ips.clone()
    }

    /// How many descriptors it may have open from now on; answers the limit there was.
    pub fn limit_descriptors(&self, most: usize) -> usize {
        self.shared.with(|state| std::mem::replace(&mut state.hosts[self.host].open_max, most))
    }

    /// How many descriptors are open.
    pub fn descriptors(&self) -> usize {
        self.shared.lock().hosts[self.host].open
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("number", &self.host).finish_non_exhaustive()
    }
}

impl Backend for Host {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn probe(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        let bound = self.shared.with(|state| state.bind(self.host, at, options, count));
        let (local, sockets) = bound.map_err(errno::error)?;
        let wrap = |socket| Bound {
            local: local.clone(),
            handle: Ear::handle(&self.shared, socket),
            options: *options,
        };
        Ok(sockets.into_iter().map(wrap).collect())
    }

    fn steer(&self, group: &[Bound], program: &Program) -> io::Result<()> {
        let first = group.first().and_then(|bound| socket_of(&bound.handle));
        let first = first.ok_or_else(|| errno::error(errno::INVAL))?;
        self.shared.with(|state| state.steer(first, program)).map_err(errno::error)
    }

    fn bind_datagrams(
        &self,
        at: &Address,
        options: &DatagramOptions,
        count: usize,
    ) -> io::Result<Vec<BoundDatagrams>> {
        let many = (Sharing::Group, count);
        let bound = self.shared.with(|state| state.bind_datagrams(self.host, at, options, many));
        let (local, sockets) = bound.map_err(errno::error)?;
        let wrap = |socket| BoundDatagrams {
            local: local.clone(),
            handle: LooseDatagrams::handle(&self.shared, socket),
            options: *options,
        };
        Ok(sockets.into_iter().map(wrap).collect())
    }

    fn steer_datagrams(&self, group: &[BoundDatagrams], program: &Program) -> io::Result<()> {
        let first = group.first().and_then(|bound| LooseDatagrams::socket_of(&bound.handle));
        let first = first.ok_or_else(|| errno::error(errno::INVAL))?;
        self.shared.with(|state| state.steer_datagrams(first, program)).map_err(errno::error)
    }

    fn spare(&self) -> io::Result<Handle> {
        spare(&self.shared, self.host)
    }

    fn lookup(&self, host: &str, port: u16) -> Option<io::Result<Vec<SocketAddr>>> {
        Some(self.shared.lookup_now(host, port))
    }

    /// Drives the world until these shards have ended, and whatever else runs in it meanwhile.
    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        let numbers: Vec<usize> = launches.iter().map(|launch| launch.shard).collect();
        let failed = |text: String| {
            let why = || Why::Failed(io::Error::other(text.clone()));
            Err(numbers.iter().map(|shard| Ended { shard: *shard, why: why() }).collect())
        };
        let driving = match Driving::begin(&self.shared) {
            Ok(driving) => driving,
            Err(why_not) => return failed(why_not.to_owned()),
        };
        let result = Arc::new(Mutex::new(None));
        let done = result.clone();
        let done: Done =
            Box::new(move |ended| *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended));
        self.world().launch(self, launches, done);
        let taken = || result.lock().unwrap_or_else(PoisonError::into_inner);
        let driven = drive(&driving, &|| taken().is_some());
        match (taken().take(), driven) {
            (Some(ended), _) => ended,
            (None, Err(stuck)) => failed(stuck.to_string()),
            (None, Ok(())) => failed("the world ended before its shards".to_owned()),
        }
    }
}
