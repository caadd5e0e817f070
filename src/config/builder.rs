//! Shared by the socket builders: what a socket is bound to, conversions from anything that names an address, and
//! setters of single options.
//!
//! Invariant: a string, a host with a port, and an [`Endpoint`] mean the same for all builders.

use std::fmt;

use crate::config::address::{AddressError, Endpoint};

/// Implements `From` for every type that names an address, using `of_endpoint` and `of_address` of `$builder`.
macro_rules! from_addresses {
    ($builder:ident) => {
        impl From<&str> for $builder {
            fn from(text: &str) -> Self {
                Self::of_endpoint(text.parse())
            }
        }

        impl From<String> for $builder {
            fn from(text: String) -> Self {
                Self::from(text.as_str())
            }
        }

        impl From<&String> for $builder {
            fn from(text: &String) -> Self {
                Self::from(text.as_str())
            }
        }

        impl From<std::net::SocketAddr> for $builder {
            fn from(address: std::net::SocketAddr) -> Self {
                Self::of_address(address)
            }
        }

        impl From<(std::net::IpAddr, u16)> for $builder {
            fn from((ip, port): (std::net::IpAddr, u16)) -> Self {
                Self::of_address(std::net::SocketAddr::new(ip, port))
            }
        }

        impl From<(&str, u16)> for $builder {
            /// A host and a port. An IPv6 address has no brackets here.
            fn from((host, port): (&str, u16)) -> Self {
                Self::from($crate::config::address::Endpoint::Tcp { host: host.to_owned(), port })
            }
        }

        impl From<$crate::config::address::Endpoint> for $builder {
            fn from(endpoint: $crate::config::address::Endpoint) -> Self {
                Self::of_endpoint(Ok(endpoint))
            }
        }
    };
}

/// Defines setters of single options.
macro_rules! setters {
    ($($(#[$doc:meta])* $option:ident($value:ident: $type:ty) = $set:expr;)*) => {$(
        $(#[$doc])*
        pub fn $option(mut self, $value: $type) -> Self {
            self.options.$option = $set;
            self
        }
    )*};
}

/// What to bind to: an endpoint, which may resolve to several addresses, or one socket to open or to take over.
#[derive(Debug)]
pub(crate) enum BindTo<T> {
    Endpoint(Endpoint),
    Socket(T),
}

impl<T> BindTo<T> {
    /// Fails if it is an endpoint that nothing can be bound to.
    pub(crate) fn check(&self) -> Result<(), AddressError> {
        match self {
            Self::Endpoint(endpoint) => endpoint.validate(),
            Self::Socket(_) => Ok(()),
        }
    }
}

impl<T: fmt::Display> fmt::Display for BindTo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Socket(socket) => socket.fmt(f),
        }
    }
}

pub(crate) use {from_addresses, setters};
