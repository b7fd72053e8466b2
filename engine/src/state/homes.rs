//! Orders over several places, in the state of their home: what their events mean for what is remembered. Also who is
//! to ask or to be asked, and when.

use super::load::invalid;
use super::remembered::Item;
use super::{Corruption, Decided, Departed, State};
use crate::checkpoint::OrderImage;
use crate::clock::Timestamp;
use crate::command::Command;
use crate::event::Change;
use crate::home::{Applied, HomeChange, HomeImage, HomeStep};
use crate::ids::{Lsn, OrderNo};
use crate::outcome::Refusal;

impl State {
    /// The order over several places that a command is about, if its home is here.
    pub(super) fn home_of(&self, command: &Command) -> Option<&HomeImage> {
        if self.homes.is_empty() {
            return None;
        }
        self.homes.image(command.order_no()?)
    }

    /// A step of an order whose home is here, or is to be.
    pub(super) fn decide_step(&self, step: &HomeStep, now: Timestamp) -> Decided {
        match step {
            // It lies in this place alone, or was released before it was reserved.
            HomeStep::Reserve { reserve, .. } if self.orders.find(&reserve.order_no).is_some() => {
                self.decide_reserve(reserve)
            }
            step => self.homes.decide_step(step, now),
        }
    }

    /// An order over several places that had ended and left memory comes back from the store. `None`: it is here.
    ///
    /// # Errors
    /// [`Refusal::InvalidField`] when something in it makes no sense.
    pub fn decide_home_loaded(&self, image: &HomeImage) -> Result<Option<Change>, Refusal> {
        let order_no = &image.order.order_no;
        if self.orders.find(order_no).is_some() {
            return Err(invalid("orders", format!("that are here already: {order_no}")));
        }
        self.homes.decide_loaded(image)
    }

    pub(super) fn apply_home(
        &mut self,
        lsn: Lsn,
        at: Timestamp,
        change: &HomeChange,
    ) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        let applied = self.homes.apply(lsn, at, change).map_err(|problem| Corruption::new(lsn, problem))?;
        let slot = match applied {
            Applied::Made(slot) => slot,
            Applied::Changed(slot, was) => {
                self.remembered.remove(&(was, Item::Home(slot)));
                slot
            }
            Applied::Unknown if exact => {
                let problem = format!("there is no order {} over several places", change.order_no());
                return Err(Corruption::new(lsn, problem));
            }
            // The checkpoint was written after the order had been forgotten, or after this.
            Applied::Known | Applied::Unknown => return Ok(()),
        };
        self.remember_home(slot, lsn);
        Ok(())
    }

    fn remember_home(&mut self, slot: u32, lsn: Lsn) {
        if self.homes.at_slot(slot).is_some_and(HomeImage::is_done) {
            self.remembered.insert((lsn, Item::Home(slot)));
        }
    }

    pub(super) fn let_go_home(&mut self, slot: u32) {
        let image = self.homes.at_slot(slot).expect("what is forgotten is still there");
        self.remembered.remove(&(image.order.lsn, Item::Home(slot)));
        if let Some(image) = self.homes.remove(slot) {
            self.gone.push(Departed::Order(image.order.order_no));
        }
    }

    pub(super) fn restore_home(&mut self, image: HomeImage) -> Result<(), Corruption> {
        let (lsn, order_no) = (image.order.lsn, &image.order.order_no);
        if let Some(slot) = self.homes.slot_of(order_no) {
            // As with plain orders: forgotten and made again while the checkpoint ran.
            let known = self.homes.at_slot(slot).map_or(Lsn::ZERO, |known| known.order.lsn);
            if known >= lsn {
                let problem = format!("order {order_no} over several places stands twice in it");
                return Err(Corruption::new(lsn, problem));
            }
            self.remembered.remove(&(known, Item::Home(slot)));
            self.homes.remove(slot);
        }
        let slot = self.homes.insert(image);
        self.remember_home(slot, lsn);
        Ok(())
    }

    /// Up to `max` branches that are to ask their home now. They do not come again before the next start: who took
    /// them sees to it that they ask.
    pub fn take_due_branches(&mut self, now: Timestamp, max: usize) -> Vec<OrderNo> {
        self.orders.take_due(true, now, max)
    }

    /// Up to `max` orders, also over several places, whose time is over, instead of their expiry, which somebody else
    /// is to be asked about. They do not come again before the next start, unless their expiry is moved or they are
    /// [given back](State::give_back_due).
    pub fn take_due_orders(&mut self, now: Timestamp, max: usize) -> Vec<OrderNo> {
        let mut due = self.orders.take_due(false, now, max);
        due.extend(self.homes.take_due(now, max - due.len()));
        due
    }

    /// An order that was taken as due and not worked on is due again.
    pub fn give_back_due(&mut self, order_no: &OrderNo) {
        if self.homes.give_back_due(order_no) {
            return;
        }
        if let Some((slot, _)) = self.orders.find(order_no) {
            self.orders.give_back_due(slot);
            self.orders.arm(slot);
        }
    }

    /// Up to `max` orders over several places whose branches are to be told something and nobody is at it: after an
    /// expiry, after a start, and when nobody has told a decision [for long](crate::limits::TRUSTED_TO_CARRY_MILLIS).
    /// They do not come again before the next decision or start: who took them sees to it that the branches are told.
    pub fn take_unsent(&mut self, now: Timestamp, max: usize) -> Vec<OrderNo> {
        self.homes.take_unsent(now, max)
    }

    /// An order over several places whose home is here, as an image.
    #[must_use]
    pub fn image_of_home(&self, order_no: &OrderNo) -> Option<HomeImage> {
        self.homes.image(order_no).cloned()
    }

    /// The orders over several places whose home is here.
    pub fn homes(&self) -> impl Iterator<Item = &HomeImage> {
        self.homes.iter()
    }

    /// The branches that are here, as images.
    pub fn branches(&self) -> impl Iterator<Item = OrderImage> {
        self.orders.iter().filter(|order| order.branch).map(|order| order.image(&self.stocks))
    }

    /// What does not hold of the orders over several places. For the audit.
    pub(super) fn check_homes(&self) -> Vec<String> {
        let mut problems = self.homes.check();
        let twice = self.homes.iter().find(|home| self.orders.find(&home.order.order_no).is_some());
        problems.extend(twice.map(|home| format!("order {} is here twice", home.order.order_no)));
        let skus = |order: &super::Order| {
            let branch = order.order_no.branch();
            branch.is_some_and(|branch| {
                order.lines.iter().all(|line| self.stocks.get(line.stock).sku_id == branch.sku_id)
            })
        };
        let strays = self.orders.iter().filter(|order| order.branch && !skus(order));
        problems.extend(strays.map(|order| format!("branch {} lies on other SKUs", order.order_no)));
        problems
    }
}
