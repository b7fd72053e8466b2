//! SKUs that leave the shard for the store and come back, in parts and at any point; the model of orders knows nothing of it.
//!
//! The store is a few maps of images here. What a caller asks of a SKU that is not open is answered after the move was finished,
//! as a router does; until then the shard must not decide it.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::{Image, OrderImage, RequestImage, Stage, StockImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Place};
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{Lsn, OrderNo, RequestId, SkuId};
use hotstock_engine::outcome::{Answer, OrderView, Outcome, Refusal, StockView};
use hotstock_engine::state::{Decision, State};

use crate::bench::Bench;
use crate::naive::plain;
use crate::steps::Arrival;

/// Where SKUs are that are not in the shard, or not completely.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// Of SKUs that are away or on their way back.
    pub stocks: BTreeMap<SkuId, Vec<StockImage>>,
    epochs: BTreeMap<SkuId, u64>,
    /// Of orders that left once; those that came back may be older here.
    orders: BTreeMap<OrderNo, OrderImage>,
    requests: BTreeMap<(SkuId, RequestId), RequestImage>,
}

impl Store {
    /// An order as it left.
    pub fn order_view(&self, order_no: &OrderNo) -> Option<OrderView> {
        let image = Image::Order(self.orders[order_no].clone());
        let state = State::of_images(Lsn::ZERO, Timestamp(0), vec![image]).unwrap();
        state.order(order_no).map(|(_, view)| view)
    }

    /// A stock as it left.
    pub fn stock_view(image: &StockImage) -> StockView {
        let StockImage { sku_id, warehouse_id, levels, status, numbered, .. } = image.clone();
        StockView { sku_id, warehouse_id, levels, status, serialized: numbered.is_some() }
    }
}

impl Bench {
    /// Closes SKUs, with all that share open orders with them, or is told why not. (Orders that come apart become orders over several places,
    /// of which this model knows nothing; the simulation of several shards does.)
    pub fn close(&mut self, skus: Vec<SkuId>) {
        let skus: Vec<_> = self.together(skus.into_iter().collect()).into_iter().collect();
        let adopting = skus.iter().any(|sku| self.stage(sku) == Some(Stage::Adopting));
        match self.place(Place::Close { skus }) {
            Err(Refusal::Moved(_)) => assert!(adopting),
            Ok(Answer::Placed) => assert!(!adopting),
            other => panic!("{other:?}"),
        }
    }

    /// Closed SKUs leave, up to so many events. `true`: nothing is left to leave.
    pub fn leave(&mut self, events: usize) -> bool {
        for _ in 0..events {
            let Some(event) = self.state.next_leaving(self.clock) else { return true };
            self.naive.log(event.at);
            self.log(event.clone());
            let free = self.state.take_forgotten();
            let shed = if let Change::Shed { orders, .. } = event.change { orders } else { Vec::new() };
            assert_eq!(free, shed, "these order numbers are free again");
        }
        false
    }

    /// A SKU comes back, with those that share open orders with it.
    pub fn arrive(&mut self, sku: SkuId, how: Arrival) {
        if self.stage(&sku).is_none() && !self.store.stocks.contains_key(&sku) {
            return;
        }
        let together = self.together([sku].into());
        if together.iter().any(|sku| self.stage(sku) == Some(Stage::Closing)) {
            self.leave(usize::MAX);
        }
        let mut left = how.events;
        for step in self.steps_in(&together, how) {
            if left == 0 {
                return;
            }
            let before = self.state.applied();
            let answer = self.place(step.clone());
            assert_eq!(answer, Ok(Answer::Placed), "{step:?}");
            left -= usize::from(self.state.applied() > before);
        }
    }

    /// SKUs, and all that share open orders with them.
    fn together(&self, mut skus: BTreeSet<SkuId>) -> BTreeSet<SkuId> {
        loop {
            let before = skus.len();
            for order in self.naive.orders.values().filter(|order| order.is_open()) {
                if order.asked.iter().any(|line| skus.contains(&line.sku_id)) {
                    skus.extend(order.asked.iter().map(|line| line.sku_id.clone()));
                }
            }
            if skus.len() == before {
                return skus;
            }
        }
    }

    /// All steps of an adoption: all begin, then the orders come, then all are finished.
    fn steps_in(&mut self, skus: &BTreeSet<SkuId>, how: Arrival) -> Vec<Place> {
        let (mut begins, mut orders, mut finishes) = (Vec::new(), Vec::new(), Vec::new());
        for sku in skus {
            let sku_id = sku.clone();
            let stage = self.stage(sku);
            if stage == Some(Stage::Open) {
                continue;
            }
            if stage.is_none() {
                *self.store.epochs.entry(sku_id.clone()).or_default() += 1;
            }
            if stage.is_none() || how.again {
                let (epoch, stocks) = (self.store.epochs[sku], self.store.stocks[sku].clone());
                begins.push(Place::Begin { sku_id: sku_id.clone(), epoch, stocks });
            }
            let comes = |image: &&OrderImage| {
                let open = image.lines.iter().any(|line| line.held > 0);
                image.lines.iter().any(|line| line.sku_id == *sku) && (open || !how.without_ended)
            };
            let images: Vec<_> = self.store.orders.values().filter(comes).cloned().collect();
            orders.extend(images.chunks(how.part).map(|part| {
                let (sku_id, orders) = (Some(sku_id.clone()), part.to_vec());
                Place::Orders { sku_id, orders, requests: Vec::new() }
            }));
            let requests = self.store.requests.values().filter(|image| image.sku_id == *sku);
            let requests: Vec<_> = requests.cloned().collect();
            orders.extend(requests.chunks(how.part).map(|part| {
                let (sku_id, requests) = (Some(sku_id.clone()), part.to_vec());
                Place::Orders { sku_id, orders: Vec::new(), requests }
            }));
            finishes.push(Place::Finish { sku_id });
        }
        begins.into_iter().chain(orders).chain(finishes).collect()
    }

    fn place(&mut self, place: Place) -> Outcome {
        let command = Command::from(Action::Place(Box::new(place)));
        match self.state.decide(&command, self.clock) {
            Decision::Answer(outcome) => outcome,
            Decision::Log(event) => {
                self.naive.log(event.at);
                self.log(event.clone());
                Ok(self.state.answer(&event))
            }
        }
    }

    /// Before a command: whatever it is about is here. Until then it must not be decided.
    pub fn bring(&mut self, action: &Action) {
        let command = Command::from(action.clone());
        let order_no = command.order_no().cloned();
        let mut skus: BTreeSet<SkuId> = match action {
            Action::CreateStock(c) => [c.sku_id.clone()].into(),
            Action::ChangeStock(c) => [c.sku_id.clone()].into(),
            Action::SetStatus(c) => [c.sku_id.clone()].into(),
            Action::Reserve(c) => c.lines.as_slice().iter().map(|line| line.sku_id.clone()).collect(),
            _ => BTreeSet::new(),
        };
        if let Some(order) = order_no.as_ref().and_then(|order_no| self.naive.orders.get(order_no)) {
            skus.extend(order.asked.iter().map(|line| line.sku_id.clone()));
        }
        let away = |order_no: &OrderNo| self.naive.elsewhere.contains(order_no);
        let order_away = order_no.as_ref().is_some_and(away);
        let moving = |sku: &SkuId| self.stage(sku).is_some_and(|stage| stage != Stage::Open);
        // Of an order that is elsewhere the shard knows nothing; it is not asked then.
        if skus.iter().any(moving) && !order_away {
            match self.state.decide(&command, self.clock) {
                Decision::Answer(Err(Refusal::Moved(back))) => assert_eq!(*back, command),
                Decision::Answer(told) => {
                    let expected = self.naive.clone().carry_out(action, self.clock);
                    assert_eq!(plain(told), plain(expected), "while it moves, at {action:?}");
                }
                Decision::Log(event) => panic!("{event:?} while one of {skus:?} moves"),
            }
        }
        for sku in &skus {
            if self.stage(sku) == Some(Stage::Closing) {
                self.leave(usize::MAX);
            }
            if self.stage(sku) != Some(Stage::Open) {
                self.arrive(sku.clone(), Arrival::WHOLE);
            }
        }
        if let Some(order_no) = order_no.filter(|order_no| self.naive.elsewhere.contains(order_no)) {
            let orders = vec![self.store.orders[&order_no].clone()];
            let back = Place::Orders { sku_id: None, orders, requests: Vec::new() };
            assert_eq!(self.place(back.clone()), Ok(Answer::Placed));
            assert_eq!(self.naive.elsewhere.get(&order_no), None, "it came back");
            let lsn = self.state.applied();
            assert_eq!(self.place(back), Ok(Answer::Placed));
            assert_eq!(self.state.applied(), lsn, "it comes back once");
        }
    }

    /// What an event that is about to be applied moves between the shard and the store.
    pub fn follow(&mut self, event: &Event) {
        let lsn = self.state.applied().next().0;
        match &event.change {
            Change::Shed { orders, .. } => {
                for order_no in orders {
                    let image = self.state.image_of_order(order_no).unwrap();
                    self.store.orders.insert(order_no.clone(), image);
                    self.naive.elsewhere.insert(order_no.clone());
                }
            }
            Change::Withdrawn { sku_id, epoch } => {
                let places = self.naive.shelves.keys().filter(|place| place.0 == *sku_id);
                let images: Vec<_> =
                    places.map(|place| self.state.image_of_stock(&place.0, place.1).unwrap()).collect();
                assert!(images.iter().all(|image| image.epoch == *epoch), "{images:?}");
                assert_eq!(*epoch, self.store.epochs.get(sku_id).copied().unwrap_or(0));
                self.store.stocks.insert(sku_id.clone(), images);
                for ((sku, request_id), change) in &mut self.naive.changes {
                    if sku == sku_id {
                        change.elsewhere = true;
                        let image = self.state.image_of_request(sku, request_id).unwrap();
                        self.store.requests.insert((sku.clone(), request_id.clone()), image);
                    }
                }
            }
            Change::OrdersAdopted { orders, requests, .. } => {
                for image in orders {
                    assert!(self.naive.elsewhere.remove(&image.order_no), "{image:?} comes twice");
                    self.naive.orders.get_mut(&image.order_no).unwrap().last_event = lsn;
                }
                for image in requests {
                    let key = (image.sku_id.clone(), image.request_id.clone());
                    let change = self.naive.changes.get_mut(&key).unwrap();
                    assert!(std::mem::take(&mut change.elsewhere), "{image:?} comes twice");
                    change.event = lsn;
                }
            }
            Change::Adopted { sku_id } => {
                self.store.stocks.remove(sku_id);
            }
            Change::Forgotten { .. } => {
                // The model has forgotten already; names may be used again.
                self.store.orders.retain(|order_no, _| self.naive.orders.contains_key(order_no));
                self.store.requests.retain(|key, _| self.naive.changes.contains_key(key));
            }
            _ => {}
        }
    }

    /// Where a SKU is; `None`: not in the shard.
    pub fn stage(&self, sku: &SkuId) -> Option<Stage> {
        let places = self.naive.shelves.keys().filter(|place| place.0 == *sku);
        let mut stages = places.map(|place| self.state.image_of_stock(&place.0, place.1).map(|i| i.stage));
        let first = stages.next()?;
        assert!(stages.all(|stage| stage == first), "the stocks of {sku} move together");
        first
    }

    /// Whether an order can expire.
    pub fn is_free(&self, order_no: &OrderNo) -> bool {
        let lines = self.naive.orders[order_no].asked.iter();
        !self.naive.elsewhere.contains(order_no)
            && lines.map(|line| self.stage(&line.sku_id)).all(|stage| stage == Some(Stage::Open))
    }
}
