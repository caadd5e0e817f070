//! What the builders of sockets share: they are made of whatever names an address, and set options one by one.
//!
//! Knows none of them. Invariant: what a string, a host with a port, or an [`Endpoint`](crate::Endpoint) means is the
//! same for all.

/// Lets whatever names an address become a `$builder`, by way of its functions `of_endpoint` and `of_address`.
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
            /// A host and a port; an IPv6 address without brackets.
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

/// Setters of single options.
macro_rules! setters {
    ($($(#[$doc:meta])* $option:ident($value:ident: $type:ty) = $set:expr;)*) => {$(
        $(#[$doc])*
        pub fn $option(mut self, $value: $type) -> Self {
            self.options.$option = $set;
            self
        }
    )*};
}

pub(crate) use {from_addresses, setters};
