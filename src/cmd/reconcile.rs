//! `hotstock reconcile`: has a running server compare everything that it knows of every SKU. First it only looks and
//! tells; with `--fix` it then puts right what is derived.

use serde::{Deserialize, Serialize};

use crate::cli::Reconcile;
use crate::cmd::say;
use crate::failure::Failure;
use crate::operator::Operator;

/// SKUs that are looked at by one request: few enough for its answer to come in time.
const PAGE: usize = 200;

#[derive(Serialize)]
struct Ask<'a> {
    fix: bool,
    limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
}

#[derive(Deserialize)]
struct Page {
    skus: u64,
    differences: Vec<Difference>,
    repaired: Vec<Repair>,
    unsettled: Vec<String>,
    #[serde(default)]
    mirror_error: Option<String>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Difference {
    sku_id: String,
    warehouse_id: u32,
    check: String,
    expected: Side,
    found: Side,
    causes: Vec<String>,
    remedy: String,
}

#[derive(Deserialize)]
struct Side {
    side: String,
    value: String,
}

#[derive(Deserialize)]
struct Repair {
    sku_id: String,
    warehouse_id: u32,
    side: String,
    before: String,
    after: String,
}

/// What one look at all SKUs found, summed over its pages.
#[derive(Default)]
struct Found {
    skus: u64,
    differences: u64,
    repaired: u64,
    unsettled: u64,
    mirror_error: Option<String>,
}

/// Has the server compare, and with `--fix` put right; tells what it found.
///
/// # Errors
/// [`Failure::Audit`] while there are differences; [`Failure::Incomplete`] when a part could not be compared.
pub async fn run(args: Reconcile) -> Result<(), Failure> {
    let operator = Operator::new(&args.url)?;
    let mut found = look(&operator, false).await?;
    if args.fix && found.differences > 0 {
        say("\nputting right what is derived:");
        let fixed = look(&operator, true).await?;
        say(format_args!("{} put right; looking again:", fixed.repaired));
        found = look(&operator, false).await?;
    }
    if found.differences > 0 {
        return Err(Failure::Audit(format!("{} differences", found.differences)));
    }
    match found.mirror_error {
        Some(error) => Err(Failure::Incomplete(format!("the mirror was not compared: {error}"))),
        None if found.unsettled > 0 => Err(Failure::Incomplete(format!(
            "{} SKUs were not compared: the store is behind",
            found.unsettled
        ))),
        None => Ok(()),
    }
}

/// Has the server look at all SKUs, page by page, and tells what it finds or puts right.
async fn look(operator: &Operator, fix: bool) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut cursor: Option<String> = None;
    loop {
        let ask = Ask { fix, limit: PAGE, cursor: cursor.as_deref() };
        let answer = operator.post("/v1/admin/reconcile", &ask).await?;
        if answer.status != 200 {
            return Err(answer.unexpected("reconcile"));
        }
        let page: Page = answer.json()?;
        tell(&page, fix);
        found.skus += page.skus;
        found.differences += page.differences.len() as u64;
        found.repaired += page.repaired.len() as u64;
        found.unsettled += page.unsettled.len() as u64;
        found.mirror_error = found.mirror_error.or(page.mirror_error);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    say(format_args!("{} SKUs compared, {} differences", found.skus, found.differences));
    Ok(found)
}

fn tell(page: &Page, fix: bool) {
    for Repair { sku_id, warehouse_id, side, before, after } in &page.repaired {
        say(format_args!("  {sku_id} in warehouse {warehouse_id}: {side} was {before}; is {after}"));
    }
    // With `fix` the differences were told before: by the look that came first.
    for Difference { sku_id, warehouse_id, check, expected, found, causes, remedy } in
        page.differences.iter().filter(|_| !fix)
    {
        say(format_args!(
            "  {sku_id} in warehouse {warehouse_id}, {check}: {} has {}; {} has {} ({remedy})",
            expected.side, expected.value, found.side, found.value
        ));
        for cause in causes {
            say(format_args!("      {cause}"));
        }
    }
    for sku_id in &page.unsettled {
        say(format_args!("  {sku_id}: not compared, the store is behind"));
    }
}
