//! The commands of orders in the naive model.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{
    Confirm, Extend, Line, Lines, Mode, Part, Release, Reserve, Return, StockStatus,
};
use hotstock_engine::ids::{OrderNo, RequestId};
use hotstock_engine::limits::MAX_REQUESTS_PER_ORDER;
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal, ShortLine};
use hotstock_engine::units::Serials;

use super::choice::wished;
use super::order::{Content, Deed, Order, What};
use super::{Naive, Place, short};

pub(super) fn place(line: &Line) -> Place {
    (line.sku_id.clone(), line.warehouse_id)
}

/// Whether the lines are the same, in whatever order.
fn same_lines<L: PartialEq>(one: &[L], two: &[L]) -> bool {
    one.len() == two.len() && one.iter().all(|line| two.contains(line))
}

impl Naive {
    pub(super) fn reserve(&mut self, c: &Reserve, now: Timestamp) -> Outcome {
        let asked = c.lines.as_slice();
        if let Some(order) = self.orders.get(&c.order_no) {
            if order.is_cancelled() {
                return Err(Refusal::OrderCancelled { order_no: c.order_no.clone() });
            }
            let lines = match wished(c) {
                Some(wished) => order.wished.as_ref().is_some_and(|known| same_lines(known, &wished)),
                None => same_lines(&order.asked, asked),
            };
            if !(order.mode == c.mode && order.buyer_id == c.buyer_id && lines) {
                return Err(Refusal::OrderMismatch { order_no: c.order_no.clone() });
            }
            return self.order_answer(&c.order_no, Effect::Replayed);
        }
        assert!(c.choice.is_none(), "the model chooses no warehouses: it is told which");
        let mut shorts = Vec::new();
        let mut got = Vec::new();
        let mut suspended = 0;
        for line in asked {
            let status = self.shelf(&line.sku_id, line.warehouse_id)?.status;
            let mut free = self.levels(&place(line)).available;
            if status == StockStatus::Suspended {
                if c.mode == Mode::AllOrNothing {
                    let (sku_id, warehouse_id) = place(line);
                    return Err(Refusal::SkuSuspended { sku_id, warehouse_id });
                }
                suspended += 1;
                free = 0;
            }
            let held = free.min(u64::from(line.quantity));
            if held < u64::from(line.quantity) {
                shorts.push(short(&place(line), u64::from(line.quantity), free));
            }
            got.push(u32::try_from(held).expect("at most the quantity of the line"));
        }
        if got.iter().all(|units| *units == 0) || (c.mode == Mode::AllOrNothing && !shorts.is_empty()) {
            return if suspended == asked.len() {
                let (sku_id, warehouse_id) = place(&asked[0]);
                Err(Refusal::SkuSuspended { sku_id, warehouse_id })
            } else {
                Err(Refusal::InsufficientStock { lines: shorts })
            };
        }
        let last_event = self.log(now);
        for (line, held) in asked.iter().zip(&got) {
            if *held > 0 {
                self.touch(&place(line));
            }
        }
        let order = Order {
            buyer_id: c.buyer_id.clone(),
            mode: c.mode,
            created_at: now,
            expires_at: now.plus_seconds(u64::from(c.ttl_seconds)),
            changed_at: now,
            last_event,
            asked: asked.to_vec(),
            wished: None,
            got,
            deeds: Vec::new(),
            requests: Vec::new(),
        };
        self.orders.insert(c.order_no.clone(), order);
        self.order_answer(&c.order_no, Effect::Created)
    }

    pub(super) fn confirm(&mut self, c: &Confirm, now: Timestamp) -> Outcome {
        let order = self.reserved_once(&c.order_no)?;
        let request = request_of(c.part.as_ref(), Content::Confirm);
        if is_repeat(&c.order_no, order, request.as_ref(), false)? {
            return self.order_answer(&c.order_no, Effect::Replayed);
        }
        let open = order.is_open();
        let all = |line| if open { order.held(line) } else { order.late(line) };
        let wanted = wanted(order, c.part.as_ref().map(|part| &part.lines), all);
        let wanted = wanted.map_err(|lines| Refusal::ExceedsHold { lines })?;
        // A hold that is still there is all that can be confirmed; once it ended, what went back with it.
        let too_much = |line| if open { order.held(line) } else { order.late(line) };
        let shorts = exceeding(order, &wanted, too_much, |line| order.held(line));
        if !shorts.is_empty() {
            return Err(Refusal::ExceedsHold { lines: shorts });
        }
        if wanted.is_empty() {
            return self.order_answer(&c.order_no, Effect::Replayed);
        }
        if !open {
            let mut shorts = Vec::new();
            for (line, units) in &wanted {
                let place = place(&order.asked[*line]);
                let on_sale = self.shelves[&place].status == StockStatus::OnSale;
                let free = if on_sale { self.levels(&place).available } else { 0 };
                if free < u64::from(*units) {
                    shorts.push(short(&place, u64::from(*units), free));
                }
            }
            if !shorts.is_empty() {
                return Err(Refusal::LatePaymentNoStock { lines: shorts });
            }
        }
        let what = if open { What::Sold } else { What::SoldLate };
        self.carry_deed(&c.order_no, Deed::new(what, wanted), request, now)
    }

    pub(super) fn release(&mut self, c: &Release, now: Timestamp) -> Outcome {
        let Some(order) = self.orders.get(&c.order_no) else {
            if c.part.is_some() {
                return Err(Refusal::UnknownOrder { order_no: c.order_no.clone() });
            }
            let last_event = self.log(now);
            let tombstone = Order {
                buyer_id: None,
                mode: Mode::AllOrNothing,
                created_at: now,
                expires_at: now,
                changed_at: now,
                last_event,
                asked: Vec::new(),
                wished: None,
                got: Vec::new(),
                deeds: Vec::new(),
                requests: Vec::new(),
            };
            self.orders.insert(c.order_no.clone(), tombstone);
            return self.order_answer(&c.order_no, Effect::Changed);
        };
        if order.is_cancelled() {
            return self.order_answer(&c.order_no, Effect::Replayed);
        }
        let request = request_of(c.part.as_ref(), Content::Release);
        if is_repeat(&c.order_no, order, request.as_ref(), false)? {
            return self.order_answer(&c.order_no, Effect::Replayed);
        }
        if !order.is_open() {
            let given_back = order.sum(|line| order.released(line)) > 0;
            if given_back && order.ended_by() != Some(What::Sold) {
                return self.order_answer(&c.order_no, Effect::Replayed);
            }
            return Err(Refusal::AlreadyConfirmed { order_no: c.order_no.clone() });
        }
        let wanted = wanted(order, c.part.as_ref().map(|part| &part.lines), |line| order.held(line));
        let wanted = wanted.map_err(|lines| Refusal::ExceedsHold { lines })?;
        let shorts = exceeding(order, &wanted, |line| order.held(line), |line| order.held(line));
        if !shorts.is_empty() {
            return Err(Refusal::ExceedsHold { lines: shorts });
        }
        let what = if c.part.is_some() { What::PartReleased } else { What::Released };
        self.carry_deed(&c.order_no, Deed::new(what, wanted), request, now)
    }

    pub(super) fn extend(&mut self, c: &Extend, now: Timestamp) -> Outcome {
        if !self.reserved_once(&c.order_no)?.is_open() {
            return Err(Refusal::OrderEnded { order_no: c.order_no.clone() });
        }
        let event = self.log(now);
        let order = self.orders.get_mut(&c.order_no).expect("just found");
        order.expires_at = now.plus_seconds(u64::from(c.ttl_seconds));
        (order.last_event, order.changed_at) = (event, now);
        self.order_answer(&c.order_no, Effect::Changed)
    }

    pub(super) fn take_back(&mut self, c: &Return, now: Timestamp) -> Outcome {
        let order = self.reserved_once(&c.order_no)?;
        let request = Some((Some(c.request_id.clone()), Content::Return(c.lines.clone())));
        if is_repeat(&c.order_no, order, request.as_ref(), c.lines.is_none())? {
            return self.order_answer(&c.order_no, Effect::Replayed);
        }
        let returnable = |line| order.confirmed(line) - order.returned(line);
        let wanted = wanted(order, c.lines.as_ref(), returnable);
        let wanted = wanted.map_err(|lines| Refusal::NothingToReturn { lines })?;
        let shorts = exceeding(order, &wanted, returnable, returnable);
        if !shorts.is_empty() {
            return Err(Refusal::NothingToReturn { lines: shorts });
        }
        if wanted.is_empty() {
            let asked = order.asked.iter();
            let lines = asked.map(|line| short(&place(line), u64::from(line.quantity), 0)).collect();
            return Err(Refusal::NothingToReturn { lines });
        }
        self.carry_deed(&c.order_no, Deed::new(What::Returned, wanted), request, now)
    }

    /// Lets an order's time be over.
    pub fn expire(&mut self, order_no: &OrderNo, now: Timestamp) -> Outcome {
        let order = &self.orders[order_no];
        assert!(
            order.expires_at <= now,
            "order {order_no} expires at {:?}, not at {now:?}",
            order.expires_at
        );
        assert!(order.is_open(), "order {order_no} holds nothing");
        let units = wanted(order, None, |line| order.held(line)).expect("all of it is in it");
        self.carry_deed(order_no, Deed::new(What::Expired, units), None, now.max(self.time))
    }

    fn carry_deed(
        &mut self,
        order_no: &OrderNo,
        mut deed: Deed,
        request: Option<(Option<RequestId>, Content)>,
        now: Timestamp,
    ) -> Outcome {
        let event = self.log(now);
        for (line, _) in &deed.units {
            let place = place(&self.orders[order_no].asked[*line]);
            self.touch(&place);
        }
        if matches!(deed.what, What::Sold | What::SoldLate) {
            for (line, units) in &deed.units {
                let place = place(&self.orders[order_no].asked[*line]);
                if self.shelves[&place].serialized {
                    let highest = self.highest.entry(place.0).or_default();
                    let from = *highest + 1;
                    *highest += u64::from(*units);
                    deed.numbers.push((*line, Serials { from, to: *highest }));
                }
            }
        }
        let order = self.orders.get_mut(order_no).expect("the caller has looked");
        order.deeds.push(deed);
        order.requests.extend(request);
        (order.last_event, order.changed_at) = (event, now);
        self.order_answer(order_no, Effect::Changed)
    }

    pub(super) fn order_answer(&self, order_no: &OrderNo, effect: Effect) -> Outcome {
        let order = self.order_view(order_no).expect("the caller has looked");
        Ok(Answer::Order { order, effect })
    }

    pub(super) fn known(&self, order_no: &OrderNo) -> Result<&Order, Refusal> {
        self.orders.get(order_no).ok_or_else(|| Refusal::UnknownOrder { order_no: order_no.clone() })
    }

    fn reserved_once(&self, order_no: &OrderNo) -> Result<&Order, Refusal> {
        let order = self.known(order_no)?;
        if order.is_cancelled() {
            return Err(Refusal::OrderCancelled { order_no: order_no.clone() });
        }
        Ok(order)
    }
}

fn request_of(
    part: Option<&Part>,
    content: impl Fn(Lines) -> Content,
) -> Option<(Option<RequestId>, Content)> {
    part.map(|part| (part.request_id.clone(), content(part.lines.clone())))
}

/// Whether an order has answered this partial request before. Without an id, the content is the identity.
fn is_repeat(
    order_no: &OrderNo,
    order: &Order,
    request: Option<&(Option<RequestId>, Content)>,
    may_exceed: bool,
) -> Result<bool, Refusal> {
    let Some(request) = request else { return Ok(false) };
    if order.requests.contains(request) {
        return Ok(true);
    }
    if request.0.is_some() && order.requests.iter().any(|known| known.0 == request.0) {
        return Err(Refusal::RequestMismatch);
    }
    if order.requests.len() >= MAX_REQUESTS_PER_ORDER && !may_exceed {
        return Err(Refusal::TooManyRequests { order_no: order_no.clone() });
    }
    Ok(false)
}

/// The named lines by their index with their units, or `all` of each line. What the order does not have is short.
fn wanted(
    order: &Order,
    lines: Option<&Lines>,
    all: impl Fn(usize) -> u32,
) -> Result<Vec<(usize, u32)>, Vec<ShortLine>> {
    let Some(lines) = lines else {
        let every = (0..order.asked.len()).map(|line| (line, all(line)));
        return Ok(every.filter(|(_, units)| *units > 0).collect());
    };
    let (known, unknown): (Vec<_>, Vec<_>) =
        lines.as_slice().iter().partition(|line| order.line_at(&place(line)).is_some());
    if unknown.is_empty() {
        let found = known.iter().filter_map(|line| Some((order.line_at(&place(line))?, line.quantity)));
        Ok(found.collect())
    } else {
        Err(unknown.iter().map(|line| short(&place(line), u64::from(line.quantity), 0)).collect())
    }
}

/// Those of the wanted lines that ask for more than there is, each with what it is told there is.
fn exceeding(
    order: &Order,
    wanted: &[(usize, u32)],
    there_is: impl Fn(usize) -> u32,
    told: impl Fn(usize) -> u32,
) -> Vec<ShortLine> {
    let too_much = wanted.iter().filter(|(line, units)| *units > there_is(*line));
    let shorts = too_much
        .map(|(line, units)| short(&place(&order.asked[*line]), u64::from(*units), u64::from(told(*line))));
    shorts.collect()
}
