//! How many connections each client address has, named by a number that fits a slot.
//!
//! A connection is counted under one address or none. Addresses are an entry here while anybody is
//! counted under them, and no longer; what the number may be is the server's business.

use ::core::net::IpAddr;
use slab::Slab;

/// Names an address while a connection is counted under it; or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressId(u32);

impl AddressId {
    /// No address: the connection is not counted.
    pub const NONE: AddressId = AddressId(0);
}

/// The addresses under which connections are counted.
#[derive(Debug, Default)]
pub struct Addresses {
    /// In order of the addresses.
    by_address: Vec<(IpAddr, AddressId)>,
    counts: Slab<(IpAddr, u32)>,
}

impl Addresses {
    /// Counts one more connection under `address`. Returns its name, and how many there are now.
    pub fn enter(&mut self, address: IpAddr) -> (AddressId, u32) {
        let counts = &mut self.counts;
        let id = match self.by_address.binary_search_by_key(&address, |entry| entry.0) {
            Ok(at) => self.by_address[at].1,
            Err(at) => {
                let id = AddressId(counts.insert((address, 0)) as u32 + 1);
                self.by_address.insert(at, (address, id));
                id
            }
        };
        let count = self.counts.get_mut(id.0 as usize - 1).map_or(0, |(_, count)| {
            *count += 1;
            *count
        });
        (id, count)
    }

    /// The address of that name.
    pub fn get(&self, id: AddressId) -> Option<IpAddr> {
        let index = (id.0 as usize).checked_sub(1)?;
        self.counts.get(index).map(|(address, _)| *address)
    }

    /// Counts one connection less. With the last one the name is free for another address.
    pub fn leave(&mut self, id: AddressId) {
        let Some(index) = (id.0 as usize).checked_sub(1) else { return };
        let Some((address, count)) = self.counts.get_mut(index) else { return };
        *count -= 1;
        if *count == 0 {
            if let Ok(at) = self.by_address.binary_search_by_key(address, |entry| entry.0) {
                self.by_address.remove(at);
            }
            self.counts.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_while_somebody_has_it_and_then_forgotten() {
        let mut addresses = Addresses::default();
        let [one, two] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let (id, count) = addresses.enter(one);
        assert_eq!((addresses.enter(one), count), ((id, 2), 1));
        let (other, _) = addresses.enter(two);
        assert_ne!(id, other);
        addresses.leave(id);
        assert_eq!((addresses.get(id), addresses.get(other)), (Some(one), Some(two)));
        addresses.leave(id);
        addresses.leave(AddressId::NONE);
        assert_eq!((addresses.get(id), addresses.get(AddressId::NONE)), (None, None));
        assert_eq!(addresses.enter(one).1, 1);
        addresses.leave(other);
        assert_eq!((addresses.by_address.len(), addresses.counts.len()), (1, 1));
    }
}
