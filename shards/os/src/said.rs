//! What every reactor on the kernel's sockets says of them, once. Macros, since the seam's traits belong to another crate: it
//! cannot say it, and here nothing can be said of all reactors.

/// Inside an implementation of [`Backend`](waterwheel_reactor::Backend), for one whose sockets are the kernel's: binds them by
/// [`bind_group`](crate::bind_group) and [`bind_datagrams`](crate::bind_datagrams), and steers them by
/// [`steer`](crate::steer()) and [`steer_datagrams`](crate::steer_datagrams).
///
/// Its crate needs `waterwheel-reactor` under that name.
#[macro_export]
macro_rules! bind_by_the_kernel {
    () => {
        fn bind(
            &self,
            at: &::waterwheel_reactor::Address,
            options: &::waterwheel_reactor::ListenOptions,
            count: usize,
        ) -> ::std::io::Result<::std::vec::Vec<::waterwheel_reactor::Bound>> {
            $crate::bind_group(at, options, count)
        }

        fn steer(
            &self,
            group: &[::waterwheel_reactor::Bound],
            program: &::waterwheel_reactor::Program,
        ) -> ::std::io::Result<()> {
            $crate::steer(group, program)
        }

        fn bind_datagrams(
            &self,
            at: &::waterwheel_reactor::Address,
            options: &::waterwheel_reactor::DatagramOptions,
            count: usize,
        ) -> ::std::io::Result<::std::vec::Vec<::waterwheel_reactor::BoundDatagrams>> {
            $crate::bind_datagrams(at, options, count)
        }

        fn steer_datagrams(
            &self,
            group: &[::waterwheel_reactor::BoundDatagrams],
            program: &::waterwheel_reactor::Program,
        ) -> ::std::io::Result<()> {
            $crate::steer_datagrams(group, program)
        }
    };
}

/// Implements [`Datagrams`](waterwheel_reactor::Datagrams) for a reactor that offers
/// [`watch`](waterwheel_reactor::Reactor::watch), by [`serve_datagrams`](crate::serve_datagrams),
/// [`bind_datagram_socket`](crate::bind_datagram_socket) and [`connect_datagrams`](crate::connect_datagrams).
///
/// Its crate needs `waterwheel-reactor` under that name.
#[macro_export]
macro_rules! datagrams_by_watching {
    ($reactor:ty) => {
        impl ::waterwheel_reactor::Datagrams for $reactor {
            fn serve(
                &self,
                bound: ::waterwheel_reactor::BoundDatagrams,
            ) -> ::std::io::Result<::std::boxed::Box<dyn ::waterwheel_reactor::DatagramSocket>> {
                $crate::serve_datagrams(self, bound)
            }

            fn bind(
                &self,
                at: &::waterwheel_reactor::Address,
                options: &::waterwheel_reactor::DatagramOptions,
            ) -> ::std::io::Result<::std::boxed::Box<dyn ::waterwheel_reactor::DatagramSocket>> {
                $crate::bind_datagram_socket(self, at, options)
            }

            fn connect(
                &self,
                to: &::waterwheel_reactor::Address,
                options: &::waterwheel_reactor::DatagramOptions,
            ) -> ::std::io::Result<::std::boxed::Box<dyn ::waterwheel_reactor::DatagramSocket>> {
                $crate::connect_datagrams(self, to, options)
            }
        }
    };
}
