"use strict";
// The logs and tracebacks of a run's page: filters lines as one types, copies them, opens folded frames.
(function () {
    let applied = "";
    let folded = false;

    function field(id) {
        return document.getElementById(id);
    }

    function whole() {
        const bar = document.querySelector(".ss-logbar");
        return Boolean(bar && bar.dataset.whole);
    }

    function passes(row, level, text) {
        return Number(row.dataset.level) >= level && (!text || row.textContent.toLowerCase().includes(text));
    }

    function filter() {
        const level = Number(field("ss-level").value) || 0;
        const text = field("ss-search").value.trim().toLowerCase();
        const rows = document.querySelectorAll(".ss-log tr[data-level]");
        let number = 0;
        rows.forEach(function (row) {
            row.hidden = !passes(row, level, text);
            number += row.hidden ? 0 : 1;
        });
        const count = field("ss-count");
        const filtering = Boolean(level || text);
        count.textContent = filtering
            ? count.dataset.says.replace("%(number)s", String(number)).replace("%(total)s", String(rows.length)) : "";
        document.querySelectorAll("details.ss-attempt").forEach(function (attempt) {
            const lines = attempt.querySelectorAll(".ss-log tr[data-level]");
            const none = filtering && lines.length > 0 && attempt.querySelector(".ss-log tr:not([hidden])") === null;
            attempt.classList.toggle("ss-no-match", none);
        });
        applied = level + " " + text;
    }

    // What is open because a filter found something in it is left open: the reader closes it.
    function reveal() {
        document.querySelectorAll("details.ss-attempt").forEach(function (attempt) {
            if (attempt.querySelector(".ss-log tr:not([hidden])")) {
                attempt.open = true;
                const around = attempt.parentElement.closest("details");
                if (around) {
                    around.open = true;
                }
            }
        });
    }

    // While lines are looked for, tracebacks step back; those that were open come again with the other lines.
    function foldTraces(filtering) {
        document.querySelectorAll("details.ss-trace").forEach(function (trace) {
            if (filtering && trace.open) {
                trace.open = false;
                trace.ssFolded = true;
            } else if (!filtering && trace.ssFolded) {
                trace.open = true;
                trace.ssFolded = false;
            }
        });
        folded = filtering;
    }

    function changed() {
        filter();
        const filtering = field("ss-level").value !== "0" || field("ss-search").value.trim() !== "";
        if (filtering !== folded) {
            foldTraces(filtering);
        }
        if (filtering) {
            reveal();
        }
    }

    // The log of what still runs is shown from its end, until the reader scrolls back.
    function follow() {
        document.querySelectorAll(".ss-log[data-ss-tail]").forEach(function (box) {
            if (box.ssLeft !== true) {
                box.scrollTop = box.scrollHeight;
            }
        });
    }

    // Of a long tree the present run is in sight.
    function showKin() {
        const here = document.querySelector(".ss-kin [aria-current]");
        if (here) {
            const box = here.closest(".ss-kin");
            const below = here.getBoundingClientRect().bottom - box.getBoundingClientRect().bottom;
            if (below > 0) {
                box.scrollTop = below + box.clientHeight / 2;
            }
        }
    }

    function scrolled(event) {
        const box = event.target;
        if (box.classList && box.classList.contains("ss-log")) {
            box.ssLeft = box.scrollTop + box.clientHeight < box.scrollHeight - 8;
        }
    }

    function wire() {
        const form = field("ss-filter");
        if (!form || !field("ss-level")) {
            return;
        }
        // When not all lines are on the page, only the server can look through the rest of them.
        form.addEventListener("submit", function (event) {
            if (whole()) {
                event.preventDefault();
                changed();
            }
        });
        document.addEventListener("input", function (event) {
            if (event.target.id === "ss-search" || event.target.id === "ss-level") {
                changed();
            }
        });
    }

    function textOf(box) {
        const rows = Array.from(box.querySelectorAll("tr:not([hidden])"));
        if (rows.length) {
            return rows.map(function (row) {
                return Array.from(row.cells, function (cell) { return cell.textContent; }).join("\t");
            }).join("\n") + "\n";
        }
        return Array.from(box.querySelectorAll("pre"), function (one) { return one.textContent; }).join("\n") + "\n";
    }

    // Without https there is no clipboard to write to; the old way works there.
    async function write(text) {
        if (navigator.clipboard) {
            await navigator.clipboard.writeText(text);
            return;
        }
        const area = document.createElement("textarea");
        area.value = text;
        area.className = "ss-unseen";
        document.body.append(area);
        area.select();
        const done = document.execCommand("copy");
        area.remove();
        if (!done) {
            throw new Error("copy");
        }
    }

    async function copy(button) {
        const box = button.parentElement.parentElement.querySelector(button.dataset.ssCopy);
        const before = button.dataset.text || button.textContent;
        button.dataset.text = before;
        try {
            await write(textOf(box));
            button.textContent = button.dataset.copied;
        } catch (error) {
            button.textContent = button.dataset.failed;
        }
        setTimeout(function () { button.textContent = before; }, 2000);
    }

    function unfold(button) {
        const folds = Array.from(button.closest(".ss-trace").querySelectorAll("details.ss-fold"));
        const open = folds.some(function (one) { return !one.open; });
        folds.forEach(function (one) { one.open = open; });
        const other = button.dataset.ssUnfold;
        if (button.dataset.text === undefined) {
            button.dataset.text = button.textContent;
        }
        button.textContent = open ? other : button.dataset.text;
    }

    function start() {
        const root = field("ss-run");
        if (!root) {
            return;
        }
        root.classList.add("ss-script");
        root.addEventListener("click", function (event) {
            const button = event.target.closest("button");
            if (button && button.dataset.ssCopy) {
                copy(button);
            } else if (button && button.dataset.ssUnfold) {
                unfold(button);
            }
        });
        wire();
        follow();
        showKin();
        root.addEventListener("scroll", scrolled, true);
        root.addEventListener("toggle", follow, true);
        document.addEventListener("ss:refreshed", function () {
            follow();
            if (field("ss-level") && applied) {
                filter();
            }
        });
    }

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
})();
