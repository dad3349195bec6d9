//! Datagram sockets: system calls of their own, and the reactor's readiness.

use std::io;

use waterwheel_reactor::{Address, BoundDatagrams, DatagramOptions, DatagramSocket, Datagrams};

use crate::core::UringReactor;

impl Datagrams for UringReactor {
    fn serve(&self, bound: BoundDatagrams) -> io::Result<Box<dyn DatagramSocket>> {
        waterwheel_os::serve_datagrams(self, bound)
    }

    fn bind(&self, at: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>> {
        waterwheel_os::bind_datagram_socket(self, at, options)
    }

    fn connect(&self, to: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>> {
        waterwheel_os::connect_datagrams(self, to, options)
    }
}
