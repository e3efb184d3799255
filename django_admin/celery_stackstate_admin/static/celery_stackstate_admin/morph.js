"use strict";
// Turns one part of the page into another and touches only what differs: what is open, marked, scrolled or in focus
// stays so. Elements with data-ss-own belong to the reader and are left alone, as is what is open of <details>.
(function () {
    function same(old, fresh) {
        return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && (old.id || "") === (fresh.id || "");
    }

    function attributes(old, fresh) {
        const kept = function (name) { return name === "open" && old.nodeName === "DETAILS"; };
        for (const one of Array.from(old.attributes)) {
            if (!kept(one.name) && !fresh.hasAttribute(one.name)) {
                old.removeAttribute(one.name);
            }
        }
        for (const one of Array.from(fresh.attributes)) {
            if (!kept(one.name) && old.getAttribute(one.name) !== one.value) {
                old.setAttribute(one.name, one.value);
            }
        }
    }

    // Sections come and go: one that is in its place already is found by its id, and what stands before it goes.
    function skipTo(old, id) {
        let found = old;
        while (found && found.id !== id) {
            found = found.nextSibling;
        }
        while (found && old !== found) {
            const next = old.nextSibling;
            old.remove();
            old = next;
        }
        return found;
    }

    function children(old, fresh) {
        let place = old.firstChild;
        for (const wanted of Array.from(fresh.childNodes)) {
            if (wanted.id && place && place.id !== wanted.id) {
                place = skipTo(place, wanted.id) || place;
            }
            if (place && same(place, wanted)) {
                const next = place.nextSibling;
                morph(place, wanted);
                place = next;
            } else {
                old.insertBefore(wanted, place);
            }
        }
        while (place) {
            const next = place.nextSibling;
            place.remove();
            place = next;
        }
    }

    function morph(old, fresh) {
        if (old.nodeType !== Node.ELEMENT_NODE) {
            if (old.nodeValue !== fresh.nodeValue) {
                old.nodeValue = fresh.nodeValue;
            }
            return;
        }
        if (old.hasAttribute("data-ss-own") || old.isEqualNode(fresh)) {
            return;
        }
        attributes(old, fresh);
        children(old, fresh);
    }

    window.stackstateMorph = morph;
})();
