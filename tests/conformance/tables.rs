//! The behaviour of orders and stock as tables. They hold whatever is in memory.

/// Name and table.
pub const TABLES: &[(&str, &str)] = &[
    (
        "reserve-confirm-return",
        "create A 10             -> 201 A 10/0/0
         reserve O1 A:3          -> 201 reserved A:3[held 3]
         stock A                 -> 200 A 7/3/0
         confirm O1              -> 200 confirmed A:3[confirmed 3]
         stock A                 -> 200 A 7/0/3
         return O1 A:1 id=R1     -> 200 partially_returned A:3[confirmed 3 returned 1]
         return O1 id=R2         -> 200 returned A:3[confirmed 3 returned 3]
         return O1 id=R3         -> 409 nothing_to_return A:3/0
         stock A                 -> 200 A 10/0/0",
    ),
    (
        "release",
        "create A 10             -> 201 A 10/0/0
         reserve O1 A:3          -> 201 reserved A:3[held 3]
         release O1 reason=why   -> 200 released A:3[released 3]
         release O1              -> 200 released replayed A:3[released 3]
         extend O1 60            -> 409 order_ended
         stock A                 -> 200 A 10/0/0",
    ),
    (
        "expiry-and-late-payment",
        "create A 10             -> 201 A 10/0/0
         reserve O1 A:3 ttl=1    -> 201 reserved A:3[held 3]
         reserve O2 A:4 ttl=1    -> 201 reserved A:4[held 4]
         expired O1              -> expired A:3[released 3]
         expired O2              -> expired A:4[released 4]
         stock A                 -> 200 A 10/0/0
         confirm O1              -> 200 confirmed A:3[confirmed 3]
         deduct A 6 id=D1        -> 200 A 1/0/3
         confirm O2              -> 409 late_payment_no_stock A:4/1
         release O2              -> 200 expired replayed A:4[released 4]
         stock A                 -> 200 A 1/0/3",
    ),
    (
        "extended-orders-do-not-expire",
        "create A 10             -> 201 A 10/0/0
         reserve O1 A:3 ttl=1    -> 201 reserved A:3[held 3]
         extend O1 600           -> 200 reserved A:3[held 3]
         reserve O2 A:1 ttl=1    -> 201 reserved A:1[held 1]
         expired O2              -> expired A:1[released 1]
         get O1                  -> 200 reserved A:3[held 3]",
    ),
    (
        "tombstones",
        "create A 10             -> 201 A 10/0/0
         release O1              -> 200 cancelled
         release O1              -> 200 cancelled replayed
         reserve O1 A:3          -> 409 order_cancelled
         confirm O1              -> 409 order_cancelled
         extend O1 60            -> 409 order_cancelled
         return O1 id=R1         -> 409 order_cancelled
         get O1                  -> 200 cancelled
         release O2 A:1          -> 404 unknown_order
         get O2                  -> 404 unknown_order
         reserve O2 A:1          -> 201 reserved A:1[held 1]
         stock A                 -> 200 A 9/1/0",
    ),
    (
        "repeats",
        "create A 10             -> 201 A 10/0/0
         create A 10             -> 200 A 10/0/0 replayed
         create A 11             -> 409 stock_exists
         reserve O1 A:3          -> 201 reserved A:3[held 3]
         reserve O1 A:3          -> 200 reserved replayed A:3[held 3]
         reserve O1 A:3 ttl=7    -> 200 reserved replayed A:3[held 3]
         reserve O1 A:1 A:2      -> 200 reserved replayed A:3[held 3]
         confirm O1              -> 200 confirmed A:3[confirmed 3]
         confirm O1              -> 200 confirmed replayed A:3[confirmed 3]
         reserve O1 A:3          -> 200 confirmed replayed A:3[confirmed 3]
         return O1 id=R1         -> 200 returned A:3[confirmed 3 returned 3]
         return O1 id=R1         -> 200 returned replayed A:3[confirmed 3 returned 3]
         restock A 5 id=S1       -> 200 A 15/0/0
         restock A 5 id=S1       -> 200 A 15/0/0 replayed
         restock A 6 id=S1       -> 422 request_mismatch
         deduct A 5 id=S1        -> 422 request_mismatch
         adjust A -15 id=S2      -> 200 A 0/0/0
         adjust A -1 id=S3       -> 409 insufficient_stock A:1/0
         adjust A 7 id=S3        -> 200 A 7/0/0",
    ),
    (
        "mismatch",
        "create A 10                    -> 201 A 10/0/0
         create A@2 10                  -> 201 A@2 10/0/0
         create B 10                    -> 201 B 10/0/0
         reserve O1 A:3 B:1 buyer=u     -> 201 reserved A:3[held 3] B:1[held 1]
         reserve O1 B:1 A:3 buyer=u     -> 200 reserved replayed A:3[held 3] B:1[held 1]
         reserve O1 A:2 B:1 buyer=u     -> 422 order_mismatch
         reserve O1 A:3 buyer=u         -> 422 order_mismatch
         reserve O1 A@2:3 B:1 buyer=u   -> 422 order_mismatch
         reserve O1 A:3 B:1 buyer=v     -> 422 order_mismatch
         reserve O1 A:3 B:1 buyer=u best_effort -> 422 order_mismatch
         stock A                        -> 200 A 7/3/0 A@2 10/0/0",
    ),
    (
        "shortage",
        "create A 5              -> 201 A 5/0/0
         create B 1              -> 201 B 1/0/0
         reserve O1 A:3 B:2      -> 409 insufficient_stock B:2/1
         reserve O2 A:6 B:2      -> 409 insufficient_stock A:6/5 B:2/1
         reserve O3 A:5 B:1      -> 201 reserved A:5[held 5] B:1[held 1]
         reserve O4 A:1          -> 409 insufficient_stock A:1/0
         release O3              -> 200 released A:5[released 5] B:1[released 1]
         reserve O4 A:1          -> 201 reserved A:1[held 1]
         reserve O5 C:1          -> 404 unknown_sku
         reserve O6 A@9:1        -> 404 unknown_sku
         stock C                 -> 404 unknown_sku
         confirm O9              -> 404 unknown_order
         extend O9 5             -> 404 unknown_order",
    ),
    (
        "best-effort",
        "create A 2                       -> 201 A 2/0/0
         create B 0                       -> 201 B 0/0/0
         reserve O1 A:5 B:1 best_effort   -> 201 reserved A:5[held 2] B:1[]
         reserve O1 A:5 B:1 best_effort   -> 200 reserved replayed A:5[held 2] B:1[]
         reserve O2 A:1 B:1 best_effort   -> 409 insufficient_stock A:1/0 B:1/0
         confirm O1                       -> 200 confirmed A:5[confirmed 2] B:1[]
         stock A                          -> 200 A 0/0/2",
    ),
    (
        "parts",
        "create A 10                      -> 201 A 10/0/0
         create B 10                      -> 201 B 10/0/0
         reserve O1 A:4 B:4               -> 201 reserved A:4[held 4] B:4[held 4]
         confirm O1 A:1                   -> 200 partially_confirmed A:4[held 3 confirmed 1] B:4[held 4]
         confirm O1 A:1                   -> 200 partially_confirmed replayed A:4[held 3 confirmed 1] B:4[held 4]
         confirm O1 A:1 id=P1             -> 200 partially_confirmed A:4[held 2 confirmed 2] B:4[held 4]
         confirm O1 A:1 id=P1             -> 200 partially_confirmed replayed A:4[held 2 confirmed 2] B:4[held 4]
         confirm O1 A:2 id=P1             -> 422 request_mismatch
         release O1 B:3                   -> 200 partially_confirmed A:4[held 2 confirmed 2] B:4[held 1 released 3]
         release O1 A:3                   -> 409 exceeds_hold A:3/2
         confirm O1 C:1                   -> 409 exceeds_hold C:1/0
         confirm O1                       -> 200 partially_confirmed A:4[confirmed 4] B:4[confirmed 1 released 3]
         release O1                       -> 409 already_confirmed
         return O1 A:5 id=R1              -> 409 nothing_to_return A:5/4
         return O1 A:2 B:1 id=R1          -> 200 partially_returned A:4[confirmed 4 returned 2] B:4[confirmed 1 released 3 returned 1]
         stock A                          -> 200 A 8/0/2
         stock B                          -> 200 B 10/0/0",
    ),
    (
        "suspended",
        "create A 10             -> 201 A 10/0/0
         create A@2 10           -> 201 A@2 10/0/0
         reserve O1 A:1 A@2:1    -> 201 reserved A:1[held 1] A@2:1[held 1]
         suspend A@2             -> 200 A@2 9/1/0 suspended
         reserve O2 A@2:1        -> 409 sku_suspended
         reserve O3 A:1          -> 201 reserved A:1[held 1]
         suspend A               -> 200 A 8/2/0 suspended A@2 9/1/0 suspended
         suspend A               -> 200 A 8/2/0 suspended A@2 9/1/0 suspended replayed
         reserve O4 A:1          -> 409 sku_suspended
         confirm O1              -> 200 confirmed A:1[confirmed 1] A@2:1[confirmed 1]
         release O3              -> 200 released A:1[released 1]
         confirm O3              -> 409 late_payment_no_stock A:1/0
         resume A                -> 200 A 9/0/1 A@2 9/0/1
         reserve O4 A:1          -> 201 reserved A:1[held 1]
         suspend Z               -> 404 unknown_sku",
    ),
    (
        "serial-numbers",
        "create A 9 serialized   -> 201 A 9/0/0 serialized
         create A 9 serialized   -> 200 A 9/0/0 serialized replayed
         create A 9              -> 422 invalid_field serialized
         create A@2 9            -> 422 invalid_field serialized
         create B 9              -> 201 B 9/0/0
         create B 9 serialized   -> 422 invalid_field serialized
         reserve O1 A:3 B:1      -> 201 reserved A:3[held 3] B:1[held 1]
         reserve O2 A:2          -> 201 reserved A:2[held 2]
         reserve O3 A:1          -> 201 reserved A:1[held 1]
         confirm O2              -> 200 confirmed A:2[confirmed 2 #1-2]
         confirm O2              -> 200 confirmed replayed A:2[confirmed 2 #1-2]
         release O3              -> 200 released A:1[released 1]
         confirm O1 A:1          -> 200 partially_confirmed A:3[held 2 confirmed 1 #3-3] B:1[held 1]
         return O2 id=R1         -> 200 returned A:2[confirmed 2 returned 2 #1-2]
         confirm O3              -> 200 confirmed A:1[confirmed 1 #4-4]
         confirm O1              -> 200 confirmed A:3[confirmed 3 #3-3 #5-6] B:1[confirmed 1]
         get O1                  -> 200 confirmed A:3[confirmed 3 #3-3 #5-6] B:1[confirmed 1]
         reserve O1 A:3 B:1      -> 200 confirmed replayed A:3[confirmed 3 #3-3 #5-6] B:1[confirmed 1]
         stock A                 -> 200 A 5/0/4 serialized
         reserve O4 A:9          -> 409 insufficient_stock A:9/5
         reserve O5 A:5          -> 201 reserved A:5[held 5]
         confirm O5              -> 200 confirmed A:5[confirmed 5 #7-11]",
    ),
    (
        "serial-numbers-of-warehouses",
        "create A 9 serialized   -> 201 A 9/0/0 serialized
         create A@2 9 serialized -> 201 A@2 9/0/0 serialized
         reserve O1 A@2:2 A:3    -> 201 reserved A@2:2[held 2] A:3[held 3]
         reserve O2 A:1          -> 201 reserved A:1[held 1]
         confirm O2              -> 200 confirmed A:1[confirmed 1 #1-1]
         confirm O1              -> 200 confirmed A@2:2[confirmed 2 #2-3] A:3[confirmed 3 #4-6]
         create A@3 1 serialized -> 201 A@3 1/0/0 serialized
         reserve O3 A@3:1        -> 201 reserved A@3:1[held 1]
         confirm O3              -> 200 confirmed A@3:1[confirmed 1 #7-7]
         reserve O4 A@2:1        -> 201 reserved A@2:1[held 1]
         confirm O4              -> 200 confirmed A@2:1[confirmed 1 #8-8]
         suspend A               -> 200 A 5/0/4 serialized suspended A@2 6/0/3 serialized suspended A@3 0/0/1 serialized suspended",
    ),
    (
        "serial-numbers-late",
        "create A 5 serialized   -> 201 A 5/0/0 serialized
         reserve O1 A:3 ttl=1    -> 201 reserved A:3[held 3]
         reserve O2 A:2          -> 201 reserved A:2[held 2]
         expired O1              -> expired A:3[released 3]
         confirm O2              -> 200 confirmed A:2[confirmed 2 #1-2]
         confirm O1              -> 200 confirmed A:3[confirmed 3 #3-5]
         return O1 A:3 id=R1     -> 200 returned A:3[confirmed 3 returned 3 #3-5]
         reserve O3 A:3          -> 201 reserved A:3[held 3]
         confirm O3              -> 200 confirmed A:3[confirmed 3 #6-8]",
    ),
];
